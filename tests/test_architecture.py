"""Imports run one way; ``python -m tests.test_architecture`` prints the map."""

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

ROOMS = [
    "soup.errors",
    "soup.events",
    "soup.watching",
    "soup.remote",
    "soup.checkpoints",
    "soup.blending",
    "soup.choosing",
    "soup.settings",
    "soup.identifying",
    "soup.walk",
    "soup.run",
    "soup.line",
    "soup.publishing",
    "soup.forecast",
    "soup.evaluators.models",
    "soup.evaluators.engines",
    "soup.evaluators.kit",
    "soup.evaluators.workers",
    "soup.evaluators",  # the public face, the fake and the demo
    "soup.reporting",
    "soup.cli",
]
"""Every room may import those before it, and none after it."""

ANYWHERE = [
    "soup._version",
    "soup.words",
    "soup.compiled",
    "soup.markup",
    "soup.holding",
    "soup.evaluators.writing",
]
"""Small things without imports of ours (but errors) that every room may use."""

FACE = "soup"
"""``import soup`` itself: names of every room of ``soup/``, each looked up when it is used."""


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the product by its dotted name."""
    places = ("soup", "soup/evaluators", "soup/cli")  # links to folders are not followed
    for top, prefix in ((place, place.replace("/", ".")) for place in places):
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = file.relative_to(ROOT / top).with_suffix("").parts
            name = ".".join([prefix, *(part for part in parts if part != "__init__")])
            if top != "soup" or parts[0] not in ("evaluators", "cli"):  # links to the other two
                yield name, file


def imports(file: Path, known: set[str]) -> Iterator[str]:
    """Modules of ours that a file imports, also inside functions, and for types only."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            assert node.level == 0, f"{file}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def room(name: str) -> str:
    """The room that a module is in: the longest that its name begins with."""
    fitting = [r for r in [FACE, *ROOMS, *ANYWHERE] if name == r or name.startswith(f"{r}.")]
    return max(fitting, key=len)


def arrows() -> Iterator[tuple[str, str]]:
    """Every import among our modules, importer first."""
    known = dict(modules())
    for name, file in known.items():
        for target in imports(file, set(known)):
            yield name, target


def wrong(arrow: tuple[str, str]) -> bool:
    """Whether an import runs against the order of the rooms."""
    above, below = map(room, arrow)
    if above == FACE or below in ANYWHERE:
        return False
    if above in ANYWHERE:
        return below != "soup.errors"
    if below == FACE:  # for its version and its names, from above the library
        return ROOMS.index(above) <= ROOMS.index("soup.run")
    return ROOMS.index(below) > ROOMS.index(above)


def circles() -> list[str]:
    """A circle of modules that import each other, as a path; empty where there is none."""
    targets: dict[str, set[str]] = {}
    for above, below in arrows():
        if FACE not in (above, below) and below != "soup.evaluators":  # the faces are lazy
            targets.setdefault(above, set()).add(below)
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for below in sorted(targets.get(name, ())):
            if found := walk(below, [*path, name]):
                return found
        done.add(name)
        return []

    return next(filter(None, (walk(name, []) for name in sorted(targets))), [])


def test_imports_run_one_way() -> None:
    """From the command line to the errors, and never back; a wrong arrow is named."""
    assert [f"{a} → {b}" for a, b in arrows() if wrong((a, b))] == []


def test_no_modules_import_each_other() -> None:
    """Inside a room, too."""
    assert circles() == []


def test_every_module_has_a_room() -> None:
    """Nothing but the public face and the way in stands at the top."""
    outside = {name for name, _ in modules() if room(name) == FACE}
    assert outside == {"soup", "soup.__main__"}


def test_every_room_says_what_lives_there() -> None:
    """In three to ten lines at its door."""
    for name in ROOMS:
        door = ROOT.joinpath(*name.removeprefix("soup.").split(".")) / "__init__.py"
        door = door if door.exists() else ROOT.joinpath(*name.split(".")) / "__init__.py"
        if door.exists() and name not in ("soup.cli", "soup.evaluators"):
            words = ast.get_docstring(ast.parse(door.read_text())) or ""
            assert 3 <= len(words.splitlines()) <= 10, door


def print_map() -> None:
    """Each room, from the top, with the rooms that it imports."""
    pairs = {(room(a), room(b)) for a, b in arrows()}
    for name in reversed(ROOMS):
        below = [other for other in reversed(ROOMS) if (name, other) in pairs and other != name]
        files = sum(1 for module, _ in modules() if room(module) == name)
        print(f"{name:26} {files:3} modules → {', '.join(below) or 'nothing'}")
    bad = [f"{a} → {b}" for a, b in arrows() if wrong((a, b))]
    print(f"wrong arrows: {', '.join(bad) or 'none'}")
    print(f"circles: {' → '.join(circles()) or 'none'}")
    assert len(list(itertools.chain(ROOMS))) == len(set(ROOMS))


if __name__ == "__main__":
    print_map()
