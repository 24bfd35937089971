"""evaluators/kit/images.py: images are unpacked whole or not at all, and in a key."""

import base64
import io
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest

from soup.errors import BenchmarkError
from tests.kit.small_sets import IMAGE

vlmevalkit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")
images = pytest.importorskip("soup.evaluators.kit.images")
from PIL import Image  # noqa: E402


def picture(colour: str, size: int = 64) -> bytes:
    """A PNG file's content."""
    noise = Image.frombytes("L", (size, size), Random(0).randbytes(size * size))
    image = noise if colour == "noise" else Image.new("RGB", (size, size), colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def table(path: Path, cells: list[str], column: str = "image") -> Path:
    """A yes/no set with these images."""
    rows = [
        {"index": k, column: cell, "question": "q?", "answer": ("Yes", "No")[k % 2]}
        for k, cell in enumerate(cells)
    ]
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return path


def shown(dataset: Any) -> list[Any]:
    """The middle pixel of every image that a model is shown."""
    found = []
    for message in dataset.messages():
        with Image.open(message[0]["value"]) as image:
            found.append(image.convert("RGB").getpixel((5, 5)))
    return found


def test_images_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a benchmark is looked up, with progress; the next run finds all of them."""
    cells = [base64.b64encode(picture(colour)).decode() for colour in ("red", "blue", "lime")]
    file = table(tmp_path / "set.tsv", cells)
    told: list[tuple[int, int]] = []
    dataset = vlmevalkit.Dataset(
        str(file), tmp_path / "cache", progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert shown(dataset) == [(255, 0, 0), (0, 0, 255), (0, 255, 0)]
    monkeypatch.setattr(images, "_write_all", None)
    assert shown(vlmevalkit.Dataset(str(file), tmp_path / "cache")) == shown(dataset)


@pytest.mark.parametrize("how", ["text", "cut", "no image"])
def test_an_image_that_cannot_be_read_is_named_and_nothing_stays(tmp_path: Path, how: str) -> None:
    """Before anything is generated, by its index; no file that a later run would take for good."""
    whole = picture("noise")
    broken = {"text": "!" * 99, "no image": base64.b64encode(b"words " * 30).decode()}
    broken["cut"] = base64.b64encode(whole[: len(whole) // 2]).decode()
    cells = [base64.b64encode(whole).decode(), broken[how], IMAGE]
    with pytest.raises(BenchmarkError, match="set: the image of index 1 cannot be read .*base64"):
        vlmevalkit.Dataset(str(table(tmp_path / "set.tsv", cells)), tmp_path / "cache")
    assert list((tmp_path / "cache" / "images").iterdir()) == []


def test_what_a_crash_left_in_part_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VLMEvalKit takes a file with a good beginning for a good one, wherever it is cut."""
    cells = [base64.b64encode(picture("noise")).decode()] * 3
    file = table(tmp_path / "set.tsv", cells)
    expected = shown(vlmevalkit.Dataset(str(file), tmp_path / "other"))

    class Killed(BaseException):
        pass

    def cut(kit: Any, *_: Any) -> None:
        path = Path(kit.dump_image(kit.data.iloc[0])[0])
        path.write_bytes(path.read_bytes()[:-1000])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(images, "_write_all", cut)
        patch.setattr(images.shutil, "rmtree", lambda *_, **__: None)  # nobody is there to clean up
        with pytest.raises(Killed):
            vlmevalkit.Dataset(str(file), tmp_path / "cache")
    assert list((tmp_path / "cache" / "images").rglob("*.png"))
    assert shown(vlmevalkit.Dataset(str(file), tmp_path / "cache")) == expected


def test_two_runs_may_unpack_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes second uses what the first made; nothing else stays."""
    file = table(tmp_path / "set.tsv", [IMAGE] * 2)
    write_all = images._write_all

    def overtaken(*given: Any) -> None:
        write_all(*given)
        monkeypatch.setattr(images, "_write_all", write_all)
        vlmevalkit.Dataset(str(file), tmp_path / "cache")

    monkeypatch.setattr(images, "_write_all", overtaken)
    assert len(shown(vlmevalkit.Dataset(str(file), tmp_path / "cache"))) == 2
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 1


def test_a_disk_that_is_full_is_not_the_tables_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place is named, and what to do; after that, nothing is left there."""
    file = table(tmp_path / "set.tsv", [IMAGE] * 2)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(BenchmarkError, match="unpacked there: No space left.*free some room"):
            vlmevalkit.Dataset(str(file), tmp_path / "cache")
    assert list((tmp_path / "cache" / "images").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchmarkError, match="cannot be unpacked there: .*another --work"):
        vlmevalkit.Dataset(str(file), tmp_path / "file")


def test_images_beside_the_table_are_part_of_its_identity(tmp_path: Path) -> None:
    """Their content, not their paths: another picture under a name is another benchmark."""
    digests = []
    for colour in ("red", "blue", "red"):
        for k in range(2):
            (tmp_path / f"{k}.png").write_bytes(picture(colour))
        paths = [str(tmp_path / f"{k}.png") for k in range(2)]
        file = table(tmp_path / "set.tsv", paths, "image_path")
        dataset = vlmevalkit.Dataset(str(file), tmp_path / "cache")
        digests.append(dataset.settings["data"])
        assert shown(dataset) == [{"red": (255, 0, 0), "blue": (0, 0, 255)}[colour]] * 2
    assert digests[0] == digests[2] != digests[1]
    (tmp_path / "1.png").write_text("no image")
    with pytest.raises(BenchmarkError, match="the image of index 1 cannot be read .no image: "):
        vlmevalkit.Dataset(str(file), tmp_path / "cache")
    (tmp_path / "1.png").unlink()
    with pytest.raises(BenchmarkError, match="index 1 cannot be read .No such file or directory"):
        vlmevalkit.Dataset(str(file), tmp_path / "cache")
