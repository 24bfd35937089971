"""What ``soup blend`` says of its methods, and how it reads their parameters."""

from soup.blending.methods import METHODS, Method
from soup.errors import UsageError


def _line(name: str, method: Method) -> str:
    values = [f"{key}={value:g}" for key, value in method.parameters.items()]
    values += ["needs --base"] if method.needs_base else []
    about = f" ({', '.join(values)})" if values else ""
    return f"  [bold]{name}[/]: {method.summary}{about}\n"


BLEND_HELP = "\n".join(
    [
        "Blend all members by a method: none is left out, none is chosen.",
        "",
        "Methods, and the parameters that --set changes:",
        "",
        *(_line(name, method) for name, method in METHODS.items()),
        "Scored only when benchmarks are given, as an average is.",
        "",
        "Example: soup blend a b --weight 0.7 --weight 0.3",
        "",
        "Example: soup blend ckpts/* --method ties --base base --set density=0.3 -o merged",
    ]
)


def parameters(given: list[str] | None) -> dict[str, float]:
    """Parameters of a method from ``NAME=VALUE``.

    Raises:
        UsageError: not of that form, not a number, or a name given twice.
    """
    found: dict[str, float] = {}
    for text in given or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name or not equals:
            raise UsageError(f"--set {text}: expected NAME=VALUE, e.g. --set density=0.2")
        if name in found:
            raise UsageError(f"--set {text}: {name} is given twice; give it once")
        try:
            found[name] = float(value)
        except ValueError:
            raise UsageError(f"--set {text}: expected a number after =, found {value!r}") from None
    return found
