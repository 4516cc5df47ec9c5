"""The row of two ranks, each with half of the threads, beside one process of the same build with all of them."""

import statistics
from collections.abc import Iterator

from rows.line import BUILDS, Builds, Line, said

WANTED = {"none": "at least 0.95", "fsdp": "at least 0.85"}
NAMES = {"none": "plain", "fsdp": "sharded"}


def lines(builds: Builds) -> Iterator[Line]:
    """Compare images per second, and what two ranks have of one process's."""
    half = max(1, builds.threads // 2)
    kinds = {(1, "none"): 2 * half, (2, "none"): half, (2, "fsdp"): half}  # ranks, sharding -> threads of each
    taken: dict[tuple[str, int, str], list[float]] = {}
    for _ in range(builds.rounds):
        for (ranks, sharding), threads in kinds.items():
            for build in BUILDS:
                words = ["--kind", str(ranks), sharding, str(threads)]
                found = float(said(builds.script(build, "ranks.py", *words, threads=0)))
                taken.setdefault((build, ranks, sharding), []).append(found)
    median = {kind: statistics.median(rates) for kind, rates in taken.items()}
    one = {build: median[build, 1, "none"] for build in BUILDS}
    yield Line(measured="one process: images/s", of=one)
    for sharding, wanted in WANTED.items():
        rate = {build: median[build, 2, sharding] for build in BUILDS}
        yield Line(measured=f"two ranks, {NAMES[sharding]}: images/s", of=rate)
        share = {build: rate[build] / one[build] for build in BUILDS}
        yield Line(measured=f"two ranks, {NAMES[sharding]}: of one process", of=share, wanted=wanted)


ROWS = {"ranks": lines}
