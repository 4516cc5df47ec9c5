"""What a run is made of: its folder, settings, device and images; what is built of them, saved and restored."""

import shutil
from dataclasses import dataclass
from functools import cached_property

import torch

from dinokit.checkpoints.store import Clock, RunFolder, header
from dinokit.config import to_yaml
from dinokit.core import dist
from dinokit.core.files import keep_lines
from dinokit.core.messages import RunError, UserError, is_main
from dinokit.health.probe import Probe, open_probe
from dinokit.sources.source import Source
from dinokit.training import shard
from dinokit.training.config import RunStage, TrainConfig
from dinokit.training.step import Trainer


@dataclass(frozen=True)
class Setup:
    """One start of a run, as all its parts need to know it."""

    run: RunFolder
    config: TrainConfig
    device: torch.device
    images: Source

    @cached_property
    def stages(self) -> tuple[RunStage, ...]:
        """The stages of the run, each with the whole of its settings."""
        return self.config.experiment.all_stages

    def build_trainer(self, stage: RunStage) -> Trainer:
        """Build what trains in a stage, with initial weights; if sharded, all ranks must call together."""
        runtime, several = self.config.runtime, dist.world_size() > 1
        return Trainer(
            stage.experiment,
            self.device,
            recompute=runtime.recompute,
            compiled=runtime.compile,
            sharded=runtime.sharding == "fsdp" and several,
            teams=runtime.groups and several,
            first=stage.first,
        )

    def probe(self, trainer: Trainer, *, images: int) -> Probe | None:
        """Read the few images by which networks are judged; None if there are fewer than two. All ranks must call."""
        data = trainer.experiment.data
        return open_probe(
            self.images,
            data.pixels,
            side=data.pixels.size or data.views.variants()[0].global_size,
            patch_size=trainer.backbone.student.patch_size,
            images=images,
            seed=trainer.experiment.seed,
        )


def newest(run: RunFolder) -> str:
    """Say what a run that ends now can go on from."""
    steps = run.steps(with_state=True)
    return f"saved is step {steps[-1]}" if steps else "nothing is saved yet"


def save(setup: Setup, trainer: Trainer, clock: Clock) -> None:
    """Write a checkpoint; all ranks must call together."""
    trainer.catch_up()
    if not is_main() and not trainer.sharded:  # all ranks hold the same state
        return
    setup.run.save(
        clock.step,
        state=trainer.state(),
        clock=clock,
        models={
            file: (
                shard.whole(network.state_dict()),
                header(network.config, trainer.experiment.data.of_model, step=clock.step),
            )
            for file, network in trainer.models().items()
        },
        keep=setup.config.runtime.keep,
    )


def restore(setup: Setup, trainer: Trainer) -> Clock:
    """Load the newest checkpoint and drop what the logs say of later steps; a fresh run stays as it was built."""
    run = setup.run
    steps = run.steps(with_state=True)
    state, clock = run.load(steps[-1], trainer.layout) if steps else ({}, Clock())
    # before rank 0 writes the first checkpoint, all have looked for one, and have found the same
    found = dist.gather_lists([(clock.step, to_yaml(trainer.experiment))])
    if len(set(found)) > 1:
        raise RunError(
            f"all ranks must see one run, they found steps {sorted({step for step, _ in found})}; "
            "give all the same --out, on a disk that they share, and the same settings"
        )
    if not steps:
        return clock
    trainer.lr_factor = clock.lr_factor
    trainer.load_state({name: value.to(trainer.device) for name, value in state.items()})
    if is_main():
        run.publish(clock.step)  # a kill may have come between the checkpoint and its publication
        for log in (run.metrics, run.bad_images):
            keep_lines(log, lambda line: line.get("step", 0) <= clock.step)
        # bad steps that will be taken again; those before the run went back stay
        keep_lines(run.bad_steps, lambda line: line["step"] <= clock.step or line["rollbacks"] < clock.rollbacks)
    return clock


def check_room(setup: Setup, trainer: Trainer) -> None:
    """Refuse a disk on which the checkpoints that lie there at a time do not fit: those kept, and the next.

    Raises:
        UserError: names the folder, what is wanted and what is free.
    """
    state = trainer.state()
    sizes = [value.numel() * value.element_size() for value in state.values()]
    if not any(name.startswith("optimizer.") for name in state):  # two moments of each weight come with the first step
        learned = (parameter for part in trainer.parts.values() for parameter in part.parameters())
        sizes += [2 * parameter.numel() * parameter.element_size() for parameter in learned]
    there = len(setup.run.steps(with_state=True))
    wanted = sum(sizes) * max(setup.config.runtime.keep + 1 - there, 1)
    free = shutil.disk_usage(setup.run.path).free if is_main() else wanted
    if free < wanted:
        raise UserError(
            f"{setup.run.path} is on a disk with {free / 1e9:.2f} GB free, and the checkpoints that are kept at a time "
            f"take {wanted / 1e9:.2f} GB more; free some, choose another --out, or --runtime.keep 1"
        )
