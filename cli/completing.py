"""Values that a shell may complete; nothing that takes long is imported for them."""

from collections.abc import Callable, Iterable


def among(values: Iterable[str] | Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """A completer that offers those of the values that begin with what was typed.

    Args:
        values: all of them, or what gives them when they are asked for.
    """

    def complete(incomplete: str) -> list[str]:
        found = values() if callable(values) else values
        return [value for value in found if value.lower().startswith(incomplete.lower())]

    return complete


def benchmarks() -> list[str]:
    """VLMEvalKit's names, and the tables that lie in the working directory."""
    from pathlib import Path

    from soup.evaluators.kit.known_names import NAMES
    from soup.evaluators.kit.suites import TABLES

    here = sorted(str(path) for path in Path().glob("*") if path.suffix.lower() in TABLES)
    return [*here, *NAMES]


def families() -> list[str]:
    """Families of models, and the chat template."""
    from soup.evaluators.models.families import FAMILIES, GENERIC

    return [*(family.name for family in FAMILIES), GENERIC]


def devices() -> list[str]:
    """What ``--device`` may be here."""
    from soup.evaluators.workers.early import gpus

    return ["auto", "cpu", *(["cuda"] if gpus() != 0 else [])] + [
        f"cuda:{k}" for k in range(gpus() or 0)
    ]


def compute_dtypes() -> tuple[str, ...]:
    """What models may be computed in."""
    from soup.evaluators.workers.early import COMPUTE_DTYPES

    return COMPUTE_DTYPES


def engines() -> tuple[str, ...]:
    """Who may answer."""
    from soup.evaluators.engines.vllm_options import ENGINES

    return ENGINES


def parameters() -> list[str]:
    """Parameters of all methods, to be followed by a value."""
    from soup.blending.methods import METHODS

    names = (name for method in METHODS.values() for name in method.parameters)
    return [f"{name}=" for name in dict.fromkeys(names)]
