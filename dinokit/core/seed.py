"""Randomness as a function: every draw follows from a few integers such as (seed, step, sample).

Nothing then depends on how many workers, ranks or interruptions there were, and no generator state needs saving.
NumPy's SeedSequence fills short keys up with zeros, so that (1, 2) and (1, 2, 0) would be one stream: the length of a
key is therefore part of it.
"""

import numpy


def generator(*key: int) -> numpy.random.Generator:
    """Make a NumPy generator that is a pure function of the integers (each >= 0)."""
    return numpy.random.default_rng((len(key), *key))


def derived(*key: int) -> int:
    """Return a seed, for torch, that is a pure function of the integers (each >= 0); `seed + 1` is another run's."""
    # 63 bits: torch takes a signed integer
    return int(numpy.random.SeedSequence((len(key), *key)).generate_state(1, numpy.uint64)[0] >> numpy.uint64(1))
