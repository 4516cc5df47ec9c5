"""Whether numba, the extra `fast`, can be used, and how what it compiles is compiled."""

import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from inspect import unwrap
from typing import Any, TypeVar

from dinokit.core.messages import line_of, warn

F = TypeVar("F", bound=Callable[..., object])

NUMBA = (0, 60)  # the oldest that is used, that of the extra `fast`


@cache
def usable() -> bool:
    """Tell whether numba is there; where it is and cannot be used, that is said once.

    Slow, for it is imported, so not before it is wanted.
    """
    if find_spec("numba") is None:
        return False
    try:
        found = version("numba")
        if tuple(map(int, re.findall(r"\d+", found)[:2])) >= NUMBA:
            import_module("numba")
            return True
        why = f"numba is {found}, older than {'.'.join(map(str, NUMBA))}"
    except (ImportError, OSError) as error:  # numpy is too new for it, or its library does not load
        why = f"numba cannot be imported: {line_of(error)}"
    warn(f"{why}; torch makes the views, which takes longer: pip install 'dinokit[fast]'")
    return False


def module(name: str) -> Any:
    """Return a module of this room that numba compiles; None where it cannot."""
    return import_module(f"dinokit.views.{name}") if usable() else None


def kept(*fastmath: str) -> Callable[[F], F]:
    """Compile at the first call, and keep the result for other processes, until the file of the function changes.

    Whatever it calls: what calls each other stands in one file.

    Args:
        fastmath: how far sums and products may differ from what is written, in LLVM's words.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": set(fastmath)}

    def compiled(function: F) -> F:
        compile_: Any = import_module("numba").njit
        plain = unwrap(function)  # of what checks types in tests
        try:
            made: F = compile_(plain, cache=True, **options)
        except RuntimeError:  # there is no folder that may be written to
            made = compile_(plain, **options)
        return made

    return compiled
