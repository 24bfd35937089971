"""soup/checkpoints/supplying.py: what members lack beside their weights, and who has it."""

import json
from pathlib import Path

import pytest

from soup.blending.blend import Blend
from soup.blending.writer import write
from soup.checkpoints.pool import Pool, Report, inspect
from soup.errors import PoolError, UsageError
from tests.conftest import make_adapter, make_checkpoint, random_tensors

SEES = {"model_type": "tiny", "architectures": ["Tiny"], "vision_config": {"vocab_size": 1}}
PROCESSOR = {"preprocessor_config.json": '{"size": 8}'}
TOKENIZER = {"tokenizer.json": '{"model": {"vocab": {"a": 0}}}', "tokenizer_config.json": "{}"}
WHOLE = {**PROCESSOR, **TOKENIZER, "chat_template.jinja": "{{ messages }}"}
CODED = {**SEES, "auto_map": {"AutoModel": "modeling_own.Own"}}


def members(tmp_path: Path, *files: dict[str, str], config: dict[str, object] = SEES) -> list[Path]:
    """Checkpoints a, b, c with these files beside their weights."""
    return [
        make_checkpoint(tmp_path / name, random_tensors(k), config=config, files=found)
        for k, (name, found) in enumerate(zip("abc", files, strict=False))
    ]


def soup_of(report: Report, tmp_path: Path) -> Path:
    """The average of a pool, written."""
    assert not report.problems
    pool = Pool(report.members, base=report.base, chosen=report.reference)
    return write(Blend(pool.members, pool.reference), tmp_path / "soup", kind="average").path


def test_the_first_member_gets_what_it_lacks_from_the_one_that_has_it(tmp_path: Path) -> None:
    """For scoring and for the soup; one line says so."""
    report = inspect(members(tmp_path, {}, WHOLE))
    assert report.warnings == (
        "a: has no tokenizer, processor or chat template; those of b are used instead",
    )
    soup = soup_of(report, tmp_path)
    assert {name: (soup / name).read_text() for name in WHOLE} == WHOLE
    assert report.members[0].companions.digest == report.members[1].companions.digest


def test_code_that_a_config_names_is_supplied(tmp_path: Path) -> None:
    """It lies beside the last checkpoint alone, as trainers leave it."""
    code = {**WHOLE, "modeling_own.py": "# code\n"}
    report = inspect(members(tmp_path, WHOLE, code, config=CODED))
    assert report.warnings == ("a: has no code; that of b is used instead",)
    assert (soup_of(report, tmp_path) / "modeling_own.py").read_text() == "# code\n"


def test_code_that_other_code_imports_is_supplied_or_told(tmp_path: Path) -> None:
    """What lies beside it and is named by no config, however deep, is needed as much."""
    own = {**WHOLE, "modeling_own.py": "from .vit import Vit\nfrom transformers import x\n"}
    whole = {**own, "vit.py": "  from .parts.norm import Norm\n", "parts/norm.py": "# code\n"}
    (tmp_path / "whole").mkdir()
    report = inspect(members(tmp_path / "whole", own, whole, config=CODED))
    assert report.warnings == ("a: has no code; that of b is used instead",)
    (tmp_path / "half").mkdir()
    del whole["parts/norm.py"]
    (path,) = members(tmp_path / "half", whole, config=CODED)
    (warning,) = inspect([path]).warnings
    assert warning.startswith("a: has no code (parts/norm.py), and neither has another")


def test_members_that_have_it_must_agree(tmp_path: Path) -> None:
    """Else an error that says what to do, whichever comes first; bytes may differ, not settings."""
    other = {**WHOLE, "preprocessor_config.json": '{"size": 9}'}
    paths = members(tmp_path, {}, WHOLE, other)
    (problem,) = inspect(paths).problems
    assert "a has no processor, and b and others, which have one, differ in it" in str(problem)
    assert "--processor" in str(problem)
    report = inspect(paths, reference="b")
    assert not report.problems
    assert [line for line in report.warnings if "a has no processor" in line] == [
        f"{report.members[0].undecided}; a soup has b's; a cannot be scored"
    ]
    assert not any(line.startswith("a: differs") for line in report.warnings)
    same = {**WHOLE, "preprocessor_config.json": '{ "size": 8, "processor_class": "P" }'}
    (paths[2] / "preprocessor_config.json").write_text(same["preprocessor_config.json"])
    assert not inspect(paths).problems
    (paths[2] / "preprocessor_config.json").write_text('{"size": 9}')
    with pytest.raises(PoolError, match="a has no processor"):
        Pool.open(*paths)


@pytest.mark.parametrize("option", ["processor", "base"])
def test_a_directory_supplies_all_that_lack(tmp_path: Path, option: str) -> None:
    """--processor DIR or --base DIR, before any member; and it is said."""
    other = {**WHOLE, "preprocessor_config.json": '{"size": 9}'}
    paths = members(tmp_path, {}, {}, other)
    place = make_checkpoint(tmp_path / "base", random_tensors(7), config=SEES, files=WHOLE)
    report = inspect(paths, **{option: place})  # type: ignore[arg-type]
    who = str(place) if option == "processor" else "the base base"
    said = f"have no tokenizer, processor or chat template; those of {who} are used instead"
    assert f"a and b: {said}" in report.warnings
    assert (soup_of(report, tmp_path) / "preprocessor_config.json").read_text() == '{"size": 8}'


def test_a_directory_that_nobody_needs_is_told(tmp_path: Path) -> None:
    """A user who names one expects it to be used; one that is none is an error."""
    paths = members(tmp_path, WHOLE, WHOLE)
    spare = make_checkpoint(tmp_path / "spare", random_tensors(7), files=WHOLE)
    (warning,) = inspect(paths, processor=spare).warnings
    assert warning.startswith(f"--processor {spare}: not used")
    with pytest.raises(UsageError, match="found nothing there"):
        inspect(paths, processor=tmp_path / "nowhere")


def test_a_soup_that_would_not_load_is_told(tmp_path: Path) -> None:
    """A model that sees and speaks, and nobody has its processor and tokenizer."""
    (warning,) = inspect(members(tmp_path, {}, {})).warnings
    assert warning.startswith("a: has no tokenizer, no processor, and neither has another member")
    (warning,) = inspect(members(tmp_path / "c", WHOLE, WHOLE, config=CODED)).warnings
    assert "has no code (modeling_own.py)" in warning


def test_an_adapter_brings_its_own_and_lacks_nothing_of_its_base(tmp_path: Path) -> None:
    """Its tokenizer and template, where its directory has them, are what it is asked with."""
    base = make_checkpoint(tmp_path / "base", random_tensors(0), config=SEES, files=WHOLE)
    factors = {
        f"layers.0.lora_{half}.weight": random_tensors(1)["layers.0.weight"] for half in "AB"
    }
    paths = [
        make_adapter(tmp_path / "plain", factors, base),
        make_adapter(tmp_path / "own", factors, base, files={"chat_template.jinja": "other"}),
    ]
    report = inspect(paths)
    assert any("own: brings chat template of its own" in line for line in report.warnings)
    plain, own = report.members
    assert plain.companions.template == ("chat_template.jinja", "{{ messages }}")
    assert own.companions.template == ("chat_template.jinja", "other")
    assert json.loads((base / "config.json").read_text()) == SEES
