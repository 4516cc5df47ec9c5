"""What the program says to a person: lines, how far it is, and what is wrong with a command, a run or an image.

All of it goes to standard error, so that standard output stays data, and rank 0 alone talks (`is_main`). The message
of an error is one line, also where the system or a library refuses: what was expected, what came, what to do.
"""

import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib import import_module
from typing import IO, Any, TypeVar, cast

from rich.console import Console
from rich.progress import track

T = TypeVar("T")

LISTED = 12  # names in one message, at most
LONGEST = 300  # letters of what a library says


class UserError(ValueError):
    """A mistake of the user: a typo, a missing path, settings that contradict each other. Exit code 2."""


class RunError(RuntimeError):
    """A run that cannot go on through no fault of the command. Exit code 3."""


class CheckFailed(RuntimeError):
    """What was made differs from what it must be; it and what was found are on disk. Exit code 1."""


class BadImage(Exception):
    """An image that cannot be used; the message is the reason, one line."""


def reason(error: OSError) -> str:
    """Say why the system refused; not every OSError carries the system's words."""
    short = re.fullmatch(r"(\d+) requested and (\d+) written", str(error))  # NumPy's words
    if short:
        return f"no room left, {short[2]} of {short[1]} numbers were written"
    return error.strerror or str(error) or type(error).__name__


def line_of(error: BaseException) -> str:
    """Return what the error says, as one line of bounded length."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."


def library(name: str, *, extra: str) -> Any:
    """Import an optional library when it is needed, or raise a UserError that names the extra."""
    try:
        return import_module(name)
    except ImportError as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing in (name, name.partition(".")[0]):
            raise UserError(f"{missing} is not installed; run: pip install 'dinokit[{extra}]'") from error
        raise UserError(f"{name} cannot be imported ({line_of(error)}); run: pip install 'dinokit[{extra}]'") from error


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that does not exist: the nearest valid ones, or all if there are few."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return UserError(f"unknown {kind} '{name}'; did you mean {' or '.join(repr(n) for n in near)}?")
    if len(names) <= LISTED:
        return UserError(f"unknown {kind} '{name}'; known are: {', '.join(names)}")
    nearest = get_close_matches(name, names, n=5, cutoff=0.0)
    return UserError(f"unknown {kind} '{name}'; of the {len(names)} known the nearest are: {', '.join(nearest)}")


def listed(names: Sequence[str]) -> str:
    """Name the first eight and say how many more there are."""
    rest = len(names) - 8
    return ", ".join(names[:8]) + (f" and {rest} more" if rest > 0 else "")


def is_main() -> bool:
    """Tell whether this process is the one that writes and talks: rank 0, also before there is a process group."""
    return os.environ.get("RANK", "0") == "0"


class _Stderr:
    """Standard error as it is now; one that is closed, or a pipe that nobody reads, must not end a run."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            if sys.stderr is not None:
                self.__getattr__("write")(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            if sys.stderr is not None:
                self.__getattr__("flush")()

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(sys.stderr, "rich_proxied_file", sys.stderr), name)  # a live line puts itself in between


console = Console(file=cast(IO[str], _Stderr()), highlight=False, soft_wrap=True, quiet=not is_main())


def info(message: str) -> None:
    """Say one line."""
    console.print(message, markup=False)


@contextmanager
def slow(message: str) -> Iterator[None]:
    """Say one line if what the body does takes longer than two seconds."""
    timer = threading.Timer(2.0, info, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def progress(items: Iterable[T], total: int) -> Iterable[T]:
    """Pass items on and show on a terminal how far they are."""
    return track(items, "", total, console=console, transient=True, disable=not console.is_terminal)


def warn(message: str) -> None:
    """Say one line that asks for attention."""
    console.print(f"warning: {message}", style="yellow", markup=False)


def duration(seconds: float) -> str:
    """Write seconds for a person."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
