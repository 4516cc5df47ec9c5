"""The two kinds of failure a person meets, and the exit code of each.

Every message is one line: what was expected, what came, what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches

LISTED = 12  # names in one message, at most


class UserError(ValueError):
    """A mistake of the user: a typo, a missing path, settings that contradict each other. Exit code 2."""


class RunError(RuntimeError):
    """A run that cannot go on through no fault of the command. Exit code 3."""


def reason(error: OSError) -> str:
    """Say why the system refused; not every OSError carries the system's words."""
    return error.strerror or str(error) or type(error).__name__


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
