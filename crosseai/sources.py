"""Which source files a module depends on, so that a workflow reruns what a change touches."""

import ast
import os
from pathlib import Path

__all__ = ["sources"]

_ROOT = Path(__file__).parent


def sources(*modules: str) -> list[str]:
    """Find the source files of modules and of all that they import inside this package.

    Imports are followed wherever they stand, also inside functions. The package's own
    ``__init__`` is left out: it holds the version, which changes no result.

    Parameters
    ----------
    *modules : str
        Such as ``crosseai.fusion``.

    Returns
    -------
    list of str
        Paths relative to the working directory, sorted.

    Raises
    ------
    ModuleNotFoundError
        If one of `modules` does not exist.
    """
    found: set[Path] = set()
    waiting = [_find(name) or _missing(name) for name in modules]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        names = _imported(path)
        # Importing a module runs the packages above it first.
        names |= {name.rpartition(".")[0] for name in names}
        waiting += filter(None, map(_find, names))
    found.discard(_ROOT / "__init__.py")
    return sorted(os.path.relpath(path) for path in found)


def _find(name: str) -> Path | None:
    """File of a module of this package, or None."""
    package, *parts = name.split(".")
    if package != _ROOT.name:
        return None
    path = _ROOT.joinpath(*parts)
    candidates = [path / "__init__.py", path.with_suffix(".py")]
    return next((file for file in candidates if file.is_file()), None)


def _missing(name: str) -> Path:
    raise ModuleNotFoundError(f"no module {name!r} in {_ROOT}")


def _imported(path: Path) -> set[str]:
    """Every name that a file imports, modules and, below them, what may be a module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names
