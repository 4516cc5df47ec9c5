"""What the program says to a person: on standard error, so that standard output stays data; rank 0 alone talks."""

from rich.console import Console

from dinokit.core import dist

console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not dist.is_main())


def info(message: str) -> None:
    """Say one line."""
    console.print(message, markup=False)


def warn(message: str) -> None:
    """Say one line that asks for attention."""
    console.print(f"warning: {message}", style="yellow", markup=False)
