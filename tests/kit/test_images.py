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
from PIL import Image, ImageCms  # noqa: E402


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

    def cut(items: Any, name: str, directory: Path, *_: Any) -> None:
        images._write(items[0].load(), directory / items[0].name, True)
        path = directory / items[0].name
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

    def overtaken(*given: Any) -> Any:
        written = write_all(*given)
        monkeypatch.setattr(images, "_write_all", write_all)
        vlmevalkit.Dataset(str(file), tmp_path / "cache")
        return written

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
    with pytest.raises(BenchmarkError, match="index 1 cannot be read .no such file: "):
        vlmevalkit.Dataset(str(file), tmp_path / "cache")


CELLS = [base64.b64encode(picture(colour)).decode() for colour in ("red", "blue", "lime")]
COLOURS = [(255, 0, 0), (0, 0, 255), (0, 255, 0)]


@pytest.mark.parametrize("how", ["exchanged", "a bit", "cut", "gone", "a link", "a directory",
                                 "no manifest", "a false manifest"])  # fmt: skip
def test_an_unpacked_image_that_changed_is_made_again(tmp_path: Path, how: str) -> None:
    """At the next look-up: what is shown is always what the table holds, and it is said."""
    file = table(tmp_path / "set.tsv", CELLS)
    dataset = vlmevalkit.Dataset(str(file), tmp_path / "cache")
    first, second, third = (Path(message[0]["value"]) for message in dataset.messages())
    content = first.read_bytes()
    manifest = first.parent / images.MANIFEST
    if how == "exchanged":
        second.replace(first)
        third.replace(second)
    elif how == "a bit":
        spoilt = bytearray(content)
        spoilt[len(content) // 2] ^= 4
        first.write_bytes(spoilt)
    elif how == "cut":
        first.write_bytes(content[:-20])
    elif how in ("gone", "a link", "a directory"):
        first.unlink()
        if how == "a link":
            first.symlink_to("/dev/zero")
        elif how == "a directory":
            (first / "inside").mkdir(parents=True)
    elif how == "no manifest":
        manifest.unlink()
        second.write_bytes(content)
    else:
        manifest.write_text(manifest.read_text().replace('": "', '": "0', 1))
    again = vlmevalkit.Dataset(str(file), tmp_path / "cache")
    assert shown(again) == COLOURS
    assert "were made again" in again.notes[0]
    assert vlmevalkit.Dataset(str(file), tmp_path / "cache").notes == []


def test_images_that_vanish_in_the_middle_of_a_run_are_made_again(tmp_path: Path) -> None:
    """Somebody empties the cache between look-up and question."""
    import shutil

    dataset = vlmevalkit.Dataset(str(table(tmp_path / "set.tsv", CELLS)), tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    assert shown(dataset) == COLOURS


@pytest.mark.parametrize("name", ["set", "HallusionBench"])
@pytest.mark.parametrize("hostile", ["../../out", "/tmp/soup-test-out", "a/b", "..", "x" * 300])
def test_no_word_of_a_table_becomes_a_path(tmp_path: Path, name: str, hostile: str) -> None:
    """An index or image_path that leads elsewhere writes nothing there, whose table it may be."""
    work = tmp_path / "work" / "cache"
    rows = [
        {"index": hostile if k else "0", "image": cell, "image_path": f"{hostile}{k}.jpg",
         "question": "q?", "answer": "Yes"}
        for k, cell in enumerate(CELLS[:2])
    ]  # fmt: skip
    file = tmp_path / f"{name}.tsv"
    pd.DataFrame(rows).to_csv(file, sep="\t", index=False)
    before = {path for path in tmp_path.rglob("*") if work not in path.parents}
    refused = name != "set" and ("/" in hostile or hostile.startswith("."))
    if refused:  # it would be a file's name in VLMEvalKit's hands, where the table is large
        with pytest.raises(BenchmarkError, match="is part of a path; expected a word"):
            vlmevalkit.Dataset(str(file), work)
    else:
        dataset = vlmevalkit.Dataset(str(file), work)
        for message in dataset.messages():
            assert Path(message[0]["value"]).resolve().is_relative_to(work)
    made = {path for path in tmp_path.rglob("*") if work not in path.parents}
    assert made - before <= {work, work.parent}
    assert not Path("/tmp/soup-test-out").exists()
    assert not list(Path("/tmp").glob("soup-test-out*"))


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"]
)
def test_every_mode_is_shown(tmp_path: Path, mode: str, linked: bool) -> None:
    """A model sees grey where the image is grey, whatever its mode and depth."""
    grey = Image.new("RGB", (32, 32), (128, 128, 128))
    if mode in ("1", "I;16"):
        image = Image.new(mode, (32, 32), {"1": 1, "I;16": 128 * 256}[mode])
    elif mode in ("I", "F"):  # of any range: its own darkest and lightest
        image = Image.new(mode, (32, 32), 32768 if mode == "I" else 0.5)
        image.putpixel((0, 0), 0)
        image.putpixel((1, 0), 65535 if mode == "I" else 1.0)
    elif mode == "P":
        image = grey.quantize()
    elif mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(grey, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    else:
        image = grey.convert("L" if mode == "LA" else "RGB").convert(mode)
    kind = {"CMYK": "JPEG", "YCbCr": "TIFF", "LAB": "TIFF", "I": "TIFF", "F": "TIFF"}.get(
        mode, "PNG"
    )
    image.save(tmp_path / "image", kind)
    cell = base64.b64encode((tmp_path / "image").read_bytes()).decode()
    cells, column = ([str(tmp_path / "image")], "image_path") if linked else ([cell], "image")
    dataset = vlmevalkit.Dataset(str(table(tmp_path / "set.tsv", cells, column)), tmp_path / "c")
    (pixel,) = shown(dataset)
    expected = 255 if mode == "1" else 128
    assert all(abs(value - expected) < 25 for value in pixel), pixel


@pytest.mark.parametrize("what", ["pipe", "device", "link", "directory", "proc"])
@pytest.mark.parametrize("column", ["table", "image_path"])
def test_only_regular_files_are_read(tmp_path: Path, column: str, what: str) -> None:
    """A pipe is not waited for, a device without an end not read: one line, at once."""
    import os

    target = tmp_path / "thing.tsv"
    if what == "pipe":
        os.mkfifo(target)
    elif what == "directory":
        target.mkdir()
    else:
        to = {"device": "/dev/zero", "link": "/dev/zero", "proc": "/proc/self/maps"}[what]
        target.symlink_to(to)
    if column == "table":
        with pytest.raises(BenchmarkError, match="thing.tsv: ") as caught:
            vlmevalkit.Dataset(str(target), tmp_path / "cache")
    else:
        file = table(tmp_path / "set.tsv", [str(target)], "image_path")
        with pytest.raises(BenchmarkError, match="image of index 0 cannot be read") as caught:
            vlmevalkit.Dataset(str(file), tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_program_is_no_image(tmp_path: Path) -> None:
    """PostScript would be run by another program to be seen."""
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n" * 9
    cells = [base64.b64encode(program).decode()]
    with pytest.raises(BenchmarkError, match="index 0 cannot be read .it is no image"):
        vlmevalkit.Dataset(str(table(tmp_path / "set.tsv", cells)), tmp_path / "cache")
