"""Rows of frozen features: a forward pass of a ViT-S/16 or B/16, beside timm and transformers with equal dtype."""

import itertools
from collections.abc import Iterator
from functools import partial

from sides import compared

from rows.line import BUILDS, Builds, Line

PEERS = ("timm", "transformers")


def lines(model: str, size: int, batch: int, builds: Builds) -> Iterator[Line]:
    """Compare images per second, also as a share of the faster peer's."""
    for dtype in builds.dtypes:
        words = [model, str(size), str(batch), dtype]
        sides = {build: builds.script(build, "inference.py", "--side", "ours", *words) for build in BUILDS}
        sides |= {peer: builds.script("today", "inference.py", "--side", peer, *words) for peer in PEERS}
        found = compared(sides, rounds=builds.rounds)
        rate = {side: batch / figure.seconds for side, figure in found.items()}
        best = max(PEERS, key=lambda peer: rate[peer])
        yield Line(measured=f"{dtype}: images/s", of={build: rate[build] for build in BUILDS})
        share = {build: rate[build] / rate[best] for build in BUILDS}
        yield Line(measured=f"{dtype}: images/s, of {best}'s {rate[best]:.2f}", of=share, wanted="at least 1.15")
        yield Line(measured=f"{dtype}: peak MB", of={build: found[build].memory for build in BUILDS})


ROWS = {
    f"features {model} {size} {batch}": partial(lines, model, size, batch)
    # 512, not the 518 of patches of 14: timm refuses a side that is no multiple of the patch
    for model, size, batch in itertools.product("sb", (224, 512), (1, 16))
}
