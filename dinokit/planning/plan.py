"""The plan of a run: what it costs, and which settings fit the machines."""

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from dinokit.core import device as devices
from dinokit.core.errors import UserError
from dinokit.planning import memory, shape, traffic, work
from dinokit.planning.shape import networks as networks
from dinokit.training.config import Experiment, Runtime
from dinokit.training.execution import Recompute

MFU = 0.4  # share of the peak that training reaches, unless said otherwise
COST: dict[Recompute, float] = {"none": 1.0, "selective": 1.05, "full": 1.33}  # time of a step; assumed
SHARDED = 1.1  # time of a step whose weights travel; assumed
_SIDE = 2048  # of the product that measures this machine


@dataclass(frozen=True)
class Plan:
    """A way to run, and what it takes. Bytes, operations and seconds."""

    parameters: dict[str, int]  # of each network; the teacher has as many again
    ranks: int
    accumulate: int
    recompute: Recompute
    sharded: bool
    images: int  # of one forward pass on one rank
    work: dict[str, float]  # operations per image
    memory: dict[str, float]  # of a rank
    traffic: dict[str, float]  # sent by a rank in a step
    rate: float  # operations per second and rank that are reached
    seconds: float  # a step, if nothing waits for data or messages
    steps: int

    @property
    def peak(self) -> float:
        """Bytes of a rank in all."""
        return sum(self.memory.values())

    @property
    def hours(self) -> float:
        """The whole run."""
        return self.seconds * self.steps / 3600

    @property
    def settings(self) -> str:
        """What to type."""
        words = [f"--data.accumulate {self.accumulate}", f"--runtime.recompute {self.recompute}"]
        return " ".join([*words, f"--runtime.sharding {'fsdp' if self.sharded else 'none'}"])


def plan(
    experiment: Experiment,
    runtime: Runtime,
    *,
    ranks: int = 1,
    room: float | None = None,
    rate: float,
    bf16: bool,
) -> Plan:
    """Predict a run as it is set, or as it fits.

    Args:
        room: bytes of memory of a rank; None: whatever the settings take.
        rate: operations per second that a rank reaches.
        bf16: whether matrix products run in bfloat16.

    Raises:
        UserError: if ranks cannot share the batch, nothing fits, or it is a distillation.
    """
    if experiment.distil is not None:
        raise UserError("a distillation cannot be planned; plan takes a recipe or run of pretraining")
    shares, built = shape.shapes(experiment), networks(experiment)
    largest = max((each for _, each in shares), key=lambda each: each.tokens + each.anchor_tokens)
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in built.items()}
    tried: list[Plan] = []
    for accumulate, recompute, sharded in _candidates(experiment, runtime, ranks=ranks, free=room is not None):
        images = experiment.data.batch_size // accumulate // ranks
        needed = _mean([(share, work.of_step(each, recompute)) for share, each in shares])
        found = Plan(
            parameters=counts,
            ranks=ranks,
            accumulate=accumulate,
            recompute=recompute,
            sharded=sharded,
            images=images,
            work=needed,
            memory=memory.of_rank(
                largest, built, images=images, ranks=ranks, sharded=sharded, recompute=recompute, bf16=bf16
            ),
            traffic=traffic.of_step(largest, built, ranks=ranks, accumulate=accumulate, sharded=sharded, bf16=bf16),
            rate=rate,
            seconds=sum(needed.values()) * experiment.data.batch_size / ranks / rate,
            steps=experiment.steps,
        )
        if room is None or found.peak <= room:
            return found
        tried.append(found)
    assert room is not None
    least = min(tried, key=lambda each: each.peak)
    raise UserError(
        f"nothing fits {room / 1e9:.0f} GB: the least is {least.peak / 1e9:.0f} GB with {least.settings}; "
        "take more GPUs, a smaller network or fewer prototypes"
    )


def _mean(parts: list[tuple[float, dict[str, float]]]) -> dict[str, float]:
    return {name: sum(share * each[name] for share, each in parts) for name in parts[0][1]}


def _candidates(
    experiment: Experiment, runtime: Runtime, *, ranks: int, free: bool
) -> Iterator[tuple[int, Recompute, bool]]:
    """Yield what may be tried, the fastest first; more micro-batches last, for they change what Sinkhorn-Knopp sees."""
    batch, wanted = experiment.data.batch_size, experiment.data.accumulate
    if not free:
        _check(experiment, wanted, ranks=ranks)
        yield wanted, runtime.recompute, runtime.sharding == "fsdp" and ranks > 1
        return
    ways = [(recompute, sharded) for recompute in COST for sharded in ((False, True) if ranks > 1 else (False,))]
    ways.sort(key=lambda way: COST[way[0]] * (SHARDED if way[1] else 1))
    each = batch // ranks if batch % ranks == 0 else 0
    usable = [n for n in _divisors(each) if n >= wanted and _fits(experiment, n, ranks)]
    if not usable:
        _check(experiment, wanted, ranks=ranks)
    for accumulate in usable:
        for recompute, sharded in ways:
            yield accumulate, recompute, sharded


def _divisors(number: int) -> list[int]:
    """List all divisors, in order; none of 0."""
    low = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})


def _check(experiment: Experiment, accumulate: int, *, ranks: int) -> None:
    images = experiment.data.batch_size // accumulate
    if images % ranks:
        raise UserError(
            f"{ranks} GPUs cannot share the {images} images of a micro-batch equally; change data.batch_size or "
            "data.accumulate"
        )
    for config in experiment.objectives.values():
        config.check_batch(images, ranks=ranks)


def _fits(experiment: Experiment, accumulate: int, ranks: int) -> bool:
    try:
        _check(experiment, accumulate, ranks=ranks)
    except UserError:
        return False
    return True


def measured_rate(device: torch.device, *, bf16: bool) -> float:
    """Return the operations per second of a large matrix product here; takes about a second."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    left, right = torch.ones(2, _SIDE, _SIDE, dtype=dtype, device=device)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        (left @ right).sum().item()
        seconds.append(time.perf_counter() - began)
    return 2 * _SIDE**3 / statistics.median(seconds[1:])


def here(experiment: Experiment) -> tuple[float, bool]:
    """Return what this machine's product reaches, and whether it runs in bfloat16."""
    device = devices.choose()
    bf16 = devices.uses_bf16(device, experiment.precision)
    return measured_rate(device, bf16=bf16), bf16
