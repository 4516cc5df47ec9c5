"""Bytes that a rank sends in a step, with ring algorithms: (n - 1) / n of what is gathered or reduced, twice for both.

data parallel   gradients reduced and spread once a step
sharded         in every micro-batch: the student's blocks gathered for the forward and the backward pass, the
                teacher's and the anchor's once, everything's gradients reduced
"""

from torch import nn

from dinokit.planning.memory import FLOAT
from dinokit.planning.shape import Shape


def of_step(
    shape: Shape, networks: dict[str, nn.Module], *, ranks: int, accumulate: int, sharded: bool, bf16: bool
) -> dict[str, float]:
    """Return the bytes that each rank sends, by reason."""
    if ranks == 1:
        return {}
    share = (ranks - 1) / ranks
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    heads = FLOAT * float(sum(counts.values()) - counts["backbone"])
    numbers = sum(use.reductions * use.config.prototypes for use in shape.heads.values())
    sent = {"targets": 2 * share * accumulate * FLOAT * numbers}
    if not sharded:
        return {"gradients": 2 * share * FLOAT * sum(counts.values())} | sent
    travelling = (2 if bf16 else FLOAT) * counts["backbone"]
    return {
        "weights": share * accumulate * ((4 if shape.anchor_tokens else 3) * travelling + 2 * heads),
        "gradients": share * accumulate * (FLOAT * counts["backbone"] + heads),
    } | sent
