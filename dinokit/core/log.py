"""What the program says to a person: on standard error, so that standard output stays data; rank 0 alone talks."""

import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeVar, cast

from rich.console import Console
from rich.progress import track

from dinokit.core import dist

T = TypeVar("T")


class _Stderr:
    """Standard error as it is now; a terminal that was closed or a pipe that nobody reads must not end a run."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.__getattr__("write")(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.__getattr__("flush")()

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(sys.stderr, "rich_proxied_file", sys.stderr), name)  # a live line puts itself in between


console = Console(file=cast(IO[str], _Stderr()), highlight=False, soft_wrap=True, quiet=not dist.is_main())


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
