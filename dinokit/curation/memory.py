"""How much memory clustering takes, and how much is read at a time so that it stays within what is given.

    peak = PROCESS + ROW n + (CENTRE k + KEPT c) d + NUMBER block

The bytes were measured (docs/log.md): a row is some integers and distances, never its vector; a number of one of the k
centres at work is kept in float32, as a byte, and in float64 while it is prepared and summed, one of the c that are
done in float32; a number that is read is float16, and float64 on its way into a sum.
"""

import re

from dinokit.core.messages import UserError
from dinokit.curation.vectors import BLOCK

PROCESS = 800 << 20  # with libraries, products of a block and their scores
ROW, CENTRE, KEPT, NUMBER = 100, 64, 8, 14
LEAST = 1 << 18  # numbers of a block; smaller ones take longer
UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def in_bytes(size: str) -> int:
    """Read a size such as 2GiB or 500MB; a UserError if it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b|)", size.strip().lower())
    if found is None:
        raise UserError(f"memory: expected a size such as 2GiB or 500MB, got {size!r}")
    return int(float(found[1]) * UNITS[found[2]])


def block_within(memory: int, *, rows: int, dim: int, centres: int, kept: int) -> int:
    """Return how many numbers of the vectors may be read at a time.

    Args:
        memory: bytes that a process may hold.
        centres: that are at work together, at most.
        kept: in all.

    Raises:
        UserError: if that is not enough for any.
    """
    needed = PROCESS + ROW * rows + (CENTRE * centres + KEPT * kept) * dim
    if needed + NUMBER * LEAST > memory:
        raise UserError(
            f"memory: {rows:,} vectors of {dim} numbers and {centres:,} centres at a time take "
            f"{(needed + NUMBER * LEAST) / 2**30:.2g} GiB, got {memory / 2**30:.2g}; "
            "give more, or have fewer clusters at a time by --splits"
        )
    return min((memory - needed) // NUMBER, BLOCK)
