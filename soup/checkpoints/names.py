"""Tensors' names: what wrappers put into them, and one model's names in two generations.

Transformers moved modules (``model.layers`` of Qwen2-VL became ``model.language_model.layers`` in
4.52), so fine-tunes of one model, and adapters of it, can differ in what stands before the part
that says which layer it is. Here names are matched by that part. Nothing is guessed: where two
tensors could be meant, none is.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from soup.checkpoints.tensors import TensorInfo

WRAPPERS = frozenset(
    {
        "module",  # DataParallel, DeepSpeed
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",  # activation checkpointing
        "_fpw_module",  # fairscale
        "_forward_module",  # Lightning
        "_wrapped_module",
        "_orig_module",
        "_ddp_module",
    }
)
"""Parts of a name that stand for a wrapper around a module, not for a module of the model."""

CONTAINERS = (
    frozenset({"model"}),
    frozenset({"model", "language_model"}),
)
"""Parts that only hold others, those that moved least first."""

INNER = frozenset({"vision_model", "text_model"})
"""Parts that only hold others where they stand inside a tower, which transformers 5 drops."""

SIGHT = ("vision", "visual", "image", "vit", "pixel")
SOUND = ("audio", "speech", "sound")


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Each name without its wrappers' parts; as it is where two would be called the same.

    Takes time in proportion to the names' length.
    """
    given = list(names)
    together = "\n".join(given)
    if not any(part in together for part in WRAPPERS):  # nearly always, and there may be thousands
        return {name: name for name in given}
    bare = {name: _bare(name) for name in given}
    count = Counter(bare.values())
    return {name: short if count[short] == 1 else name for name, short in bare.items()}


def _bare(name: str) -> str:
    *modules, last = name.split(".")
    return ".".join([part for part in modules if part not in WRAPPERS] + [last])


def core(name: str, level: int = len(CONTAINERS)) -> str:
    """What of a name stays when modules move: without the containers of a level from 0 on.

    The last level leaves out the inner parts of a tower, too: ``vision_tower.vision_model.x`` and
    ``model.vision_tower.x`` have the core ``vision_tower.x``.
    """
    dropped = CONTAINERS[min(level, len(CONTAINERS) - 1)]
    *modules, last = name.split(".")
    kept: list[str] = []
    for part in modules:
        inner = part in INNER and any(sense(k) for k in kept) and level == len(CONTAINERS)
        if part not in dropped and not inner:
            kept.append(part)
    return ".".join([*kept, last])


def sense(part: str) -> str:
    """What a module's name says it works on: ``"sight"``, ``"sound"``, or nothing."""
    if any(word in part for word in SIGHT):
        return "sight"
    return "sound" if any(word in part for word in SOUND) else ""


class Cores:
    """Names by their cores, at each level."""

    def __init__(self, names: Iterable[str]) -> None:
        given = list(names)
        self._levels: list[dict[str, list[str]]] = []
        for level in range(len(CONTAINERS) + 1):
            found: dict[str, list[str]] = {}
            for name in given:
                found.setdefault(core(name, level), []).append(name)
            self._levels.append(found)

    def candidates(self, name: str) -> list[str]:
        """Names with the core of ``name``: the one of the first level that has just one, else
        those of the last level.
        """
        found: list[str] = []
        for level, names in enumerate(self._levels):
            found = names.get(core(name, level), [])
            if len(found) == 1:
                break
        return found

    def find(self, name: str) -> str | None:
        """The one name that has the core of ``name``."""
        found = self.candidates(name)
        return found[0] if len(found) == 1 else None


def match(theirs: Mapping[str, TensorInfo], ours: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Names of one checkpoint that mean tensors called otherwise in another.

    Args:
        theirs: tensors of the one, by name.
        ours: those of the other.

    Returns:
        From their names to ours, for tensors that only seem to lack on either side: those whose
        cores agree, one to one, and else those under one prefix that all of them have (the prefix
        holds no number, and both prefixes are of the same sense), of equal shapes. Names that
        both have stand for themselves and are not in it.
    """
    left = [name for name in theirs if name not in ours]
    free = {name for name in ours if name not in theirs}
    if not left or not free:
        return {}
    mine, other = Cores(ours), Cores(theirs)
    found: dict[str, str] = {}
    for name in left:
        target = mine.find(name)
        if target in free and other.find(target) == name:
            found[name] = target
    taken = Counter(found.values())
    found = {name: target for name, target in found.items() if taken[target] == 1}
    rest = [name for name in left if name not in found]
    open_ = free - set(found.values())
    return found | _by_prefix({n: theirs[n] for n in rest}, {n: ours[n] for n in open_})


def _by_prefix(theirs: Mapping[str, TensorInfo], ours: Mapping[str, TensorInfo]) -> dict[str, str]:
    """One prefix for another, where that makes all of them agree, shapes included."""
    if not theirs or len(theirs) != len(ours):
        return {}
    old, new = _shared(theirs), _shared(ours)
    if any(part.isdigit() for part in (*old, *new)):
        return {}
    if {sense(part) for part in old} - {""} != {sense(part) for part in new} - {""}:
        return {}
    ends = {core(name.split(".", len(new))[-1]): name for name in ours}
    found = {}
    for name, info in theirs.items():
        target = ends.get(core(name.split(".", len(old))[-1]))
        if target is None or ours[target].shape != info.shape:
            return {}
        found[name] = target
    return found if len(set(found.values())) == len(found) else {}


def _shared(names: Iterable[str]) -> list[str]:
    """The modules that all names begin with."""
    first, *others = (name.split(".")[:-1] for name in names)
    depth = len(first)
    for modules in others:
        depth = min(depth, len(modules))
        while first[:depth] != modules[:depth]:
            depth -= 1
    return first[:depth]


def rules(renamed: Mapping[str, str]) -> list[tuple[str, str, int]]:
    """Old and new prefixes and how many names each pair explains, most first."""
    count: Counter[tuple[str, str]] = Counter()
    for old, new in renamed.items():
        one, other = old.split("."), new.split(".")
        same = 0
        while same < min(len(one), len(other)) and one[-1 - same] == other[-1 - same]:
            same += 1
        if same == min(len(one), len(other)):
            same -= 1  # a prefix that is nothing says nothing
        before, after = (".".join([*parts[: len(parts) - same], ""]) for parts in (one, other))
        count[before, after] += 1
    return [(old, new, times) for (old, new), times in count.most_common()]


def in_words(renamed: Mapping[str, str], most: int = 3) -> str:
    """``model.… is model.language_model.… (48), …``: what was called otherwise, for people."""
    found = rules(renamed)
    texts = [f"{old}… is {new}… ({count})" for old, new, count in found[:most]]
    return ", ".join(texts) + (f" and {len(found) - most} more" if len(found) > most else "")
