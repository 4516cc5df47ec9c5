"""Pickles in which some published sets are handed out, read as what they hold and not as the programs that they are.

A pickle may run anything when it is read. Here it may build plain values and arrays of numbers or words, and whatever
asks for more is refused.
"""

import pickle
import re
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from dinokit.core.messages import UserError, line_of, reason


def unpickled(path: Path) -> Any:
    """Read the value of a file, also of one that Python 2 wrote, or raise UserError."""
    try:
        with path.open("rb") as file:
            # strings of Python 2 are bytes, which Latin-1 leaves as they are
            return _Reader(file, encoding="latin1").load()
    except OSError as error:
        raise UserError(f"cannot open {path}: {reason(error)}") from error
    except Exception as error:  # of a damaged file it raises what it likes
        raise UserError(f"{path} is no whole pickle of plain values: {line_of(error)}") from error


@final
class _Reader(pickle.Unpickler):
    """Builds dictionaries, lists, words, numbers and arrays of them, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for the few names that such values need."""
        known = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _number,
            ("multiarray", "_reconstruct"): _empty,
            ("multiarray", "scalar"): _scalar,
            ("numeric", "_frombuffer"): _filled,
            ("_codecs", "encode"): _encoded,
            ("__builtin__", "bytes"): _no_bytes,
        }
        module = re.sub(r"numpy\._?core\.", "", module)
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no list of images needs")
        return known[module, name]


def _number(kind: str, *_: Any) -> np.dtype[Any]:
    if not re.fullmatch("[biuf][1248]|U[0-9]+", kind):
        raise pickle.UnpicklingError(f"it holds an array of {kind}, expected numbers or words")
    return np.dtype(kind, copy=True)


def _empty(*_: Any) -> np.ndarray:
    """Return the array that its state then fills."""
    return np.empty(0, dtype=np.uint8)


def _filled(data: bytes, kind: np.dtype[Any], shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
    return np.frombuffer(data, dtype=kind).reshape(shape, order=order)


def _scalar(kind: np.dtype[Any], data: bytes | str) -> Any:
    return np.frombuffer(data if isinstance(data, bytes) else _encoded(data), dtype=kind)[0]


def _encoded(text: str, *_: Any) -> bytes:
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""
