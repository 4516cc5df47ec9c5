"""Whether numba, the extra `fast`, can be used, and how what it compiles is compiled."""

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from inspect import unwrap
from pathlib import Path
from pickle import PickleError
from typing import Any, TypeVar, final

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

    Or that of `instructions`. Whatever else it calls: what calls each other stands in one file.

    Args:
        fastmath: how far sums and products may differ from what is written, in LLVM's words.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": set(fastmath)}

    def compiled(function: F) -> F:
        made: Any = import_module("numba").njit(unwrap(function), **options)  # without what checks types in tests
        with suppress(RuntimeError):  # there is no folder that may be written to
            made.enable_caching()
            made._cache = _Kept(made._cache)
        result: F = made
        return result

    return compiled


@cache
def _instructions() -> bytes:
    return hashlib.sha256(Path(__file__).with_name("instructions.py").read_bytes()).digest()


@final
class _Kept:
    """numba's cache of a function, which is done without where it is torn or cannot be written to."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        file = cache._cache_file
        file._source_stamp = file._source_stamp, _instructions()

    def load_overload(self, *arguments: Any) -> Any:
        """Return what is kept; None for nothing, and for what cannot be read."""
        try:
            return self.cache.load_overload(*arguments)
        except Exception:  # whatever half a pickle may raise: it is compiled again, and kept anew
            with suppress(OSError):
                self.cache.flush()
            return None

    def save_overload(self, *arguments: Any) -> None:
        """Keep what was compiled, if there is room."""
        with suppress(OSError, EOFError, PickleError):
            self.cache.save_overload(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)
