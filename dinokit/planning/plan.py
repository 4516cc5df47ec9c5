"""The plan of a run: what it costs, and which settings fit the machines."""

import math
import os
import time
from dataclasses import dataclass
from typing import Any

import torch

from dinokit.core import device as devices
from dinokit.core.messages import UserError
from dinokit.models.vit import Config as VitConfig
from dinokit.planning import cost
from dinokit.planning.usual import MFU
from dinokit.run.ranks import count
from dinokit.training.config import Experiment, Runtime, TrainConfig
from dinokit.training.execution import Recompute

COST: dict[Recompute, float] = {"none": 1.0, "selective": 1.05, "full": 1.33}  # time of a step; assumed
SHARDED = 1.1  # time of a step whose weights travel; assumed
SURE = 1.25  # of the memory there is: what is foreseen above it does not fit


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
    shared: bool = False,
) -> Plan:
    """Predict a run as it is set, or as it fits.

    Args:
        room: bytes of memory of a rank; None: whatever the settings take.
        rate: operations per second that a rank reaches.
        bf16: whether matrix products run in bfloat16.
        shared: whether the ranks are those of one machine's CPU.

    Raises:
        UserError: if ranks cannot share the batch, nothing fits, or it is a distillation.
    """
    if experiment.distil is not None:
        raise UserError("a distillation cannot be planned; plan takes a recipe or run of pretraining")
    shares, built = cost.shapes(experiment), cost.networks(experiment)
    largest = max((each for _, each in shares), key=lambda each: each.tokens + each.anchor_tokens)
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in built.items()}
    tried: list[Plan] = []
    ways = _ways(experiment, ranks=ranks)
    if room is None:
        ways = [(experiment.data.accumulate, runtime.recompute, runtime.sharding == "fsdp" and ranks > 1)]
    for accumulate, recompute, sharded in ways:
        images = experiment.data.batch_size // accumulate // ranks
        how: dict[str, Any] = {"ranks": ranks, "sharded": sharded, "bf16": bf16}
        parts = [(share, cost.operations(each, recompute)) for share, each in shares]
        needed = {name: sum(share * each[name] for share, each in parts) for name in parts[0][1]}
        found = Plan(
            parameters=counts,
            ranks=ranks,
            accumulate=accumulate,
            recompute=recompute,
            sharded=sharded,
            images=images,
            work=needed,
            memory=cost.memory(largest, built, images=images, recompute=recompute, shared=shared, **how),
            traffic=cost.traffic(largest, built, accumulate=accumulate, **how),
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


def _ways(experiment: Experiment, *, ranks: int) -> list[tuple[int, Recompute, bool]]:
    """List what may be tried, the fastest first; more micro-batches last, for they change what Sinkhorn-Knopp sees.

    Raises:
        UserError: if there is none.
    """
    batch, wanted = experiment.data.batch_size, experiment.data.accumulate
    usable: list[int] = []
    cannot = UserError(
        f"{ranks} GPUs cannot share the {batch // wanted} images of a micro-batch equally; change data.batch_size or "
        "data.accumulate"
    )
    for low in range(1, math.isqrt(batch // ranks) + 1) if batch % ranks == 0 else ():
        for accumulate in {low, batch // ranks // low} if batch // ranks % low == 0 else ():
            try:
                for config in experiment.objectives.values():
                    config.check_batch(batch // accumulate, ranks=ranks)
            except UserError as error:
                cannot = error if accumulate == wanted else cannot
                continue
            usable += [accumulate] if accumulate >= wanted else []
    if not usable:
        raise cannot
    ways = [(recompute, sharded) for recompute in COST for sharded in ((False, True) if ranks > 1 else (False,))]
    ways.sort(key=lambda way: COST[way[0]] * (SHARDED if way[1] else 1))
    return [(accumulate, recompute, sharded) for accumulate in sorted(usable) for recompute, sharded in ways]


def foresee(config: TrainConfig, *, anyway: bool) -> list[str]:
    """Return lines that say what a run takes on this machine, for before its first step; takes about a second.

    Args:
        anyway: do not refuse what cannot fit.

    Raises:
        UserError: if a stage needs more memory than there is; the message names what fits.
    """
    experiment = config.experiment
    if experiment.distil is not None or not isinstance(experiment.backbone, VitConfig):
        what = experiment.backbone.kind if experiment.distil is None else "distillation"
        return [f"memory and time are not foreseen: plan knows the pretraining of transformers only, not a {what}"]
    device, ranks = devices.choose(config.runtime.device), count(experiment, config.runtime)
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", ranks)) if device.type == "cpu" else 1
    room = devices.memory(device) / sharing
    bf16 = devices.settled(device, experiment.precision, dim=experiment.width) == "bf16"
    known: dict[str, Any] = {"ranks": ranks, "rate": MFU * measured_rate(device, bf16=bf16) / sharing, "bf16": bf16}
    known["shared"] = device.type == "cpu" and sharing == ranks
    stages = experiment.all_stages
    plans = [plan(stage.experiment, config.runtime, **known) for stage in stages]
    largest, worst = max(zip(plans, stages, strict=True), key=lambda each: each[0].peak)
    needed, there = largest.peak / 1e9, room / 1e9
    seconds = 3600 * sum(each.hours for each in plans)
    lasting = f"about {seconds / 3600:,.0f} hours" if seconds > 7200 else f"about {seconds / 60:,.1f} minutes"
    if needed > SURE * there and not anyway:
        try:
            fitting = plan(worst.experiment, config.runtime, room=0.9 * room, **known)
            fits = f"what fits: {fitting.settings} with {fitting.peak / 1e9:.0f} GB and {lasting} in all"
        except UserError:
            fits = "no setting of this network fits"
        raise UserError(
            f"{experiment.recipe} needs about {needed:,.0f} GB of memory (stage {worst.name}), here are {there:,.0f}; "
            f"{fits}; {'small-cpu' if device.type == 'cpu' else 'small-gpu'} and demo are for a machine like this; "
            "--anyway starts all the same"
        )
    each_of = f" for each of {ranks}" if ranks > 1 else ""
    return [
        f"memory: about {needed:,.1f} GB at the peak, of {there:,.0f} GB{each_of}",
        f"time: {lasting} for {sum(each.steps for each in plans):,} steps, by this machine's speed of now",
    ]


def measured_rate(device: torch.device, *, bf16: bool) -> float:
    """Return the operations per second of a large matrix product here, the fastest of a few; takes 0.1 s."""
    side = 1024 if device.type == "cpu" else 8192
    left, right = torch.ones(2, side, side, dtype=torch.bfloat16 if bf16 else torch.float32, device=device)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        (left @ right)[0, 0].item()
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds)


def here(experiment: Experiment) -> tuple[float, bool]:
    """Return what this machine's product reaches, and whether it runs in bfloat16."""
    device = devices.choose()
    bf16 = devices.settled(device, experiment.precision, dim=experiment.width) == "bf16"
    return measured_rate(device, bf16=bf16), bf16
