"""Packages that are imported when something of them is first used, and not before.

VLMEvalKit imports at once what any of its benchmarks may need: graphs, another client for judges,
a library for data sets. That takes most of a second at the start of every worker, and hardly any
run uses it. While it is imported, stand-ins are found in the place of such packages; what has been
taken from them finds the real thing by itself.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Name:
    """What ``from package import name`` has bound: a function, a class, a part of the package."""

    def __init__(self, module: "_StandIn", name: str) -> None:
        self._module = module
        self._name = name

    def _real(self) -> Any:
        return getattr(self._module.real(), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._real()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def __mro_entries__(self, bases: Any) -> tuple[Any, ...]:
        return (self._real(),)  # as a base class it is needed at once


class _StandIn(ModuleType):
    """What ``import package`` has bound."""

    def __init__(self, name: str, finder: "_Finder") -> None:
        super().__init__(name)
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if _top(self.__name__) in self._finder.packages:
            return _Name(self, name)
        return getattr(self.real(), name)

    def real(self) -> ModuleType:
        """The module itself, imported by now."""
        self._finder.end(_top(self.__name__))
        return import_module(self.__name__)


class _Finder:
    """Finds stand-ins for packages that nobody has imported yet, and for all that is in them."""

    def __init__(self, packages: Iterable[str]) -> None:
        self.packages = {name for name in packages if name not in sys.modules}
        self._made: list[_StandIn] = []

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """As Python's import asks."""
        if _top(name) not in self.packages:
            return None
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """As Python's import asks."""
        self._made.append(_StandIn(spec.name, self))
        return self._made[-1]

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run."""

    def end(self, package: str) -> None:
        """From now on the package is found as if we were not there."""
        if package in self.packages:
            self.packages.remove(package)
            for module in self._made:
                if _top(module.__name__) == package:
                    sys.modules.pop(module.__name__, None)


def _top(name: str) -> str:
    return name.partition(".")[0]


@contextmanager
def later(*packages: str) -> Iterator[None]:
    """While something is imported, let it have stand-ins for these packages.

    They are gone afterwards: whoever imports such a package then has the real one. One that is not
    installed is missed when it is used.
    """
    finder = _Finder(packages)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for package in packages:
            finder.end(package)
