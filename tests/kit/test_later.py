"""evaluators/kit/later.py: packages that are imported when they are first used."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from soup.evaluators.kit.later import later

HEAVY = """
from . import inner
LIMIT = 3
class Base:
    def __init__(self, text="x"): self.text = text
"""
USER = """
import later_heavy
import later_heavy.inner as inside
from later_heavy import Base
from later_heavy.inner import twice

class Own(Base):
    pass

def uses():
    return later_heavy.LIMIT, inside.twice(2), twice(3), Base("b").text, Own().text
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that imports a package in every way, with that package still to come."""
    (tmp_path / "later_heavy").mkdir()
    (tmp_path / "later_heavy" / "__init__.py").write_text(HEAVY)
    (tmp_path / "later_heavy" / "inner.py").write_text("def twice(k): return 2 * k\n")
    text = USER.replace("class Own(Base):\n    pass", "Own = Base")
    (tmp_path / "later_user.py").write_text(text)
    (tmp_path / "later_heir.py").write_text(USER)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module
    for name in [name for name in sys.modules if name.startswith("later_")]:
        del sys.modules[name]


def loaded() -> list[str]:
    """What of the package is imported."""
    return sorted(name for name in sys.modules if name.startswith("later_heavy"))


def test_a_package_is_imported_when_it_is_used(user: Any) -> None:
    """Modules, functions and constants, however they were imported; the stand-ins are gone."""
    with later("later_heavy"):
        module = user("later_user")
    assert loaded() == []
    assert module.uses() == (3, 4, 6, "b", "x")
    assert loaded() == ["later_heavy", "later_heavy.inner"]
    assert user("later_heavy").Base("c").text == "c"


def test_a_base_class_is_the_real_one(user: Any) -> None:
    """Who inherits from it needs it at once, and so has all of it."""
    with later("later_heavy"):
        module = user("later_heir")
        assert loaded() == ["later_heavy", "later_heavy.inner"]
    assert issubclass(module.Own, user("later_heavy").Base)
    assert module.uses() == (3, 4, 6, "b", "x")


def test_what_is_imported_already_stays(user: Any) -> None:
    """So do its parts that are imported meanwhile."""
    real = user("later_heavy")
    with later("later_heavy"):
        module = user("later_user")
    assert module.later_heavy is real
    assert module.uses() == (3, 4, 6, "b", "x")


def test_what_is_not_installed_is_missed_when_it_is_used(user: Any) -> None:
    """By Python's own error."""
    with later("later_heavy"), later("later_absent"):
        import later_absent  # type: ignore[import-not-found]
    with pytest.raises(ModuleNotFoundError, match="later_absent"):
        later_absent.thing()


def test_what_vlmevalkit_uses_of_them_is_there() -> None:
    """Its benchmarks' own modules, asked as their metrics ask them."""
    pytest.importorskip("soup.evaluators.kit.importing")
    from vlmeval.dataset import chartcap, foxbench, simplevqa
    from vlmeval.dataset.SGI_Bench_1_0 import idea_generation

    assert foxbench.jieba.lcut("a b") == ["a", " ", "b"]
    assert len(idea_generation.nx.DiGraph([(1, 2)])) == 2
    client = simplevqa.OpenAI(api_key="none", base_url="http://127.0.0.1:9")
    assert type(client).__module__.startswith("openai")
    assert chartcap.load_dataset.__name__ == "load_dataset"
