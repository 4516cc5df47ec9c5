"""How fast is a training step, eager and compiled, beside a plain one; is its memory what the plan says?"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from peers.plain_step import Step
from torch.utils.flop_counter import FlopCounterMode

from dinokit.core import dist
from dinokit.planning import cost
from dinokit.planning.plan import plan
from dinokit.training.config import Experiment, Runtime
from dinokit.training.step import Trainer
from on_gpu.crops import views
from on_gpu.experiments import recipe
from on_gpu.place import Place, Row, largest, percent

FIRST = {"s": 64, "b": 32, "l": 16}  # images with which the search for the largest batch begins
MOST = 1024
WANTED = {"l": 0.45}  # share of the peak, compiled: on an H100
OFF = 0.1  # of the memory, by which the plan may be wrong


def speed(place: Place, model: str) -> Iterator[Row]:
    """Train ViT-S, B or L at the largest batch that fits; then compiled; then the plain step."""
    trainer = Trainer(_experiment(place, model, 1), place.device)

    def once(batch: int) -> None:
        place.forget()
        trainer.optimizer.zero_grad()
        trainer.step([views(_experiment(place, model, batch), place.device)], step=0)

    batch = largest(once, first=2 if place.tiny else FIRST[model], most=4 if place.tiny else MOST)
    name = f"ViT-{model.upper()}/16"
    if not batch:
        yield Row(f"{name}, largest batch", "none", f"{FIRST[model]} images do not fit")
        return
    work, rate = _operations(place, model), place.rate()
    yield Row(f"{name}, peak of one product", f"{rate / 1e12:,.1f} TFLOP/s; {work / 1e9:,.0f} GFLOP an image")

    def row(what: str, found: tuple[float, int], wanted: float = 0.0) -> Row:
        seconds, images = found
        share = work * images / seconds / rate
        figure = f"{images / seconds:,.1f} img/s at batch {images}, MFU {percent(share)}"
        low = share < wanted and not place.tiny
        return Row(f"{name}, {what}", figure, f"expected MFU {percent(wanted)} on an H100" if low else "")

    def ours(images: int) -> float:
        return _timed(place, trainer, _experiment(place, model, images))

    taken = _at_most(batch, ours)
    yield row("eager", taken)
    yield _memory(place, name, _experiment(place, model, taken[1]))
    del trainer
    if place.device.type == "cuda":  # a CPU's compiler takes a minute
        place.forget()
        trainer = Trainer(_experiment(place, model, batch), place.device, compiled=True)
        yield row("compiled", _at_most(batch, ours), WANTED.get(model, 0.0))
        yield _breaks(name)
        del trainer
    place.forget()
    step = _plain(place, model)

    def plain(images: int) -> float:
        step.optimizer.zero_grad(set_to_none=True)
        seen = views(_experiment(place, model, images), place.device)
        return place.seconds(lambda: step(seen.global_crops, seen.local_crops, seen.masks))

    yield row("plain, eager", _at_most(batch, plain))


def sharded(place: Place) -> Iterator[Row]:
    """Take the steps of one process with FSDP2 on one rank."""
    experiment = replace(_experiment(place, "s", 2 if place.tiny else 64), precision="fp32")
    dist.join(store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        found, seconds = [], []
        for cut in (False, True):
            torch.manual_seed(0)
            batch = views(experiment, place.device)
            trainer = Trainer(experiment, place.device, sharded=cut)
            found.append([trainer.step([batch], step=step).values["loss"] for step in range(3)])
            seconds.append(place.seconds(lambda trainer=trainer, batch=batch: trainer.step([batch], step=3)))
            del trainer
            place.forget()
    finally:
        dist.leave()
    apart = max(abs(one / other - 1) for one, other in zip(*found, strict=True))
    figure = f"losses off by {apart:.1g}, {seconds[1] / seconds[0]:.2f} of the time"
    yield Row("FSDP2 on one rank", figure, "losses differ" if not apart < 1e-4 else "")


def anchored(place: Place) -> Iterator[Row]:
    """Take steps of the Gram stage, whose anchor sees crops of twice the side."""
    model, batch = ("s", 2) if place.tiny else ("b", 32)
    seconds = {}
    for stage in ("pretrain", "anchor"):
        experiment = recipe(model, batch=batch, tiny=place.tiny, stage=stage)
        place.forget()
        trainer = Trainer(experiment, place.device)
        seconds[stage] = _timed(place, trainer, experiment)
    name = f"Gram stage of ViT-{model.upper()}/16"
    figure = f"{batch / seconds['anchor']:,.1f} img/s at batch {batch}, {seconds['anchor'] / seconds['pretrain']:.2f}"
    yield Row(name, f"{figure} of the time of the stage before")
    yield _memory(place, name, experiment)


def _experiment(place: Place, model: str, batch: int) -> Experiment:
    return recipe(model, batch=batch, tiny=place.tiny)


def _at_most(batch: int, timed: Callable[[int], float]) -> tuple[float, int]:
    """Return the seconds of a batch, or of half of it and so on, and how many images that were."""
    while batch > 1:
        try:
            return timed(batch), batch
        except torch.OutOfMemoryError:
            batch //= 2
    return timed(1), 1


def _timed(place: Place, trainer: Trainer, experiment: Experiment) -> float:
    """Time steps, and note their peak memory."""
    batch = views(experiment, place.device)
    trainer.step([batch], step=0)
    place.forget()
    return place.seconds(lambda: trainer.step([batch], step=1))


def _memory(place: Place, name: str, experiment: Experiment) -> Row:
    foreseen = plan(experiment, Runtime(), rate=1e12, bf16=place.bf16).peak - cost.BASE
    if not place.peak():
        return Row(f"{name}, memory", f"{foreseen / 1e9:.2f} GB foreseen; not counted on a CPU")
    off = foreseen / place.peak() - 1
    figure = f"{place.peak() / 1e9:.2f} GB, {foreseen / 1e9:.2f} foreseen ({off:+.1%})"
    return Row(f"{name}, memory", figure, "" if abs(off) <= OFF else f"expected within {percent(OFF)}")


def _breaks(name: str) -> Row:
    """Say how many graphs there are, and where the compiler gave up."""
    counters: Any = torch._dynamo.utils.counters
    reasons = dict(counters["graph_break"])
    first = next(iter(reasons), "").splitlines()
    figure = f"{counters['stats']['unique_graphs']} graphs, {sum(reasons.values())} breaks"
    return Row(f"{name}, graphs", figure, first[0] if first else "")


def _plain(place: Place, model: str) -> Step:
    backbone, heads = _experiment(place, model, 1).backbone, _experiment(place, model, 1).objectives
    with place.device:
        return Step(
            dim=backbone.dim,
            depth=backbone.depth,
            heads=backbone.heads,
            patch=backbone.patch_size,
            prototypes=heads["dino"].head.prototypes,
            bf16=place.bf16,
        )


def _operations(place: Place, model: str) -> float:
    """Count the operations of an image: those of products and of attention in the plain step."""
    step, batch = _plain(place, model), views(_experiment(place, model, 2), place.device)
    with FlopCounterMode(display=False) as counter:
        step(batch.global_crops, batch.local_crops, batch.masks)
    return counter.get_total_flops() / 2
