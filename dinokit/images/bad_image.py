"""What is wrong with an image, in one line that is fit for a terminal, and nothing else said about it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from PIL import UnidentifiedImageError

_LONGEST = 200  # letters of a reason


class BadImage(Exception):
    """An image that cannot be used; the message is the reason, one line."""


@contextmanager
def reasons() -> Iterator[None]:
    """Turn whatever goes wrong with a file into one line; decoders raise almost anything on hostile bytes."""
    try:
        with _quiet():
            yield
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage("not an image of a known format") from error
    except Exception as error:  # one bad file must never end a run
        raise BadImage(_one_line(f"{type(error).__name__}: {error}")) from error


def _one_line(text: str) -> str:
    """Make what a decoder quotes from a file fit for a terminal."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


_lock = Lock()
_within = 0
_filters = warnings.catch_warnings()


@contextmanager
def _quiet() -> Iterator[None]:
    """Ignore what Pillow warns of, odd metadata and large sizes: of no use to someone training on a million files.

    Filters are shared by all threads: the first to come sets them, the last to go takes them back.
    """
    global _within, _filters
    with _lock:
        if _within == 0:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if _within == 0:
                _filters.__exit__(None, None, None)
