"""The anchor of a stage: a teacher of this run or of the one it began with, its start, or a model.

The anchor that is chosen (`auto`) is, of the teachers that a run has kept, the earliest whose patches are as good as
they get: a locality (vitals.py) within 2 % of the largest. Locality comes up with the quality of patches, then hardly
falls while that goes down, so that its maximum comes late (docs/log.md, "Gram anchoring of a small run"); that early
teachers anchor best is also what DINOv3 found (arXiv:2508.10104, section 4.3).
"""

from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path

import torch

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import RunFolder, run_and_step
from dinokit.core import dist
from dinokit.core.files import write_json
from dinokit.core.messages import UserError, info, is_main, warn
from dinokit.health.probe import Probe, look, mirrored
from dinokit.health.vitals import places
from dinokit.run.origin import model_of
from dinokit.run.setup import Setup
from dinokit.training.course import AUTO, START, Anchor
from dinokit.training.step import Trainer

CLOSE = 0.02  # of the largest locality: less tells nothing


def set_anchor(setup: Setup, trainer: Trainer, *, note: bool = True) -> None:
    """Give the anchor its weights, as a stage begins."""
    config = trainer.experiment.anchor
    if trainer.anchor is None or config is None:
        return
    if config.source == START:
        trainer.renew_anchor()
        return
    place: str = config.source
    if config.source == AUTO:
        place = str(_choose(setup, trainer, config, note=note))
    elif not config.is_model:
        place = str(_kept_at(setup, trainer, int(config.source)))
    own = trainer.anchor.state_dict()
    for name, value in model_of(place, trainer)[0].items():
        dist.fill(own[name], value.to(own[name].dtype))


def _choose(setup: Setup, trainer: Trainer, config: Anchor, *, note: bool) -> Path:
    """Return the checkpoint whose teacher becomes the anchor; all ranks must call together.

    Args:
        note: whether to write what was seen into anchor.json.

    Raises:
        UserError: if there is nothing to choose from or to judge by.
    """
    folder, kept = _earlier(setup.run, trainer)
    # the first that was kept from each step on: after a bad step it comes late
    rows = sorted({bisect_left(kept, step) for step in config.steps(max(kept, default=0))})
    found = [folder.checkpoint(kept[row]) for row in rows if row < len(kept)]
    if not found or (folder == setup.run and not trainer.first):
        raise UserError(
            "anchor.source auto chooses from the checkpoints of earlier stages, and there is none; put the anchor into "
            "a stage, or begin with a run that kept some (--from RUN)"
        )
    probe = setup.probe(trainer, images=config.images)
    if probe is None:
        raise UserError(
            f"anchor.source auto looks at images of {setup.images.name}, and fewer than two of them can be read"
        )
    seen = {path: _signs(path, trainer, probe) for path in found}
    localities = {path: signs["locality"] for path, signs in seen.items() if signs is not None}
    if not localities:
        raise UserError(f"every checkpoint that anchor.source auto chooses from is damaged, as {found[0]} is")
    most = max(localities, key=lambda path: localities[path])
    largest = localities[most]
    best = next(path for path, value in localities.items() if value >= largest - CLOSE * abs(largest))
    if note and is_main():
        compared = {path.name: seen[path] for path in localities}
        write_json(setup.run.anchor, {"stage_begins": trainer.first, "chosen": str(best), "candidates": compared})
    reason = f"the largest locality, {largest:.3f}"
    if best != most:
        reason = (
            f"the earliest with a locality ({localities[best]:.3f}) within {CLOSE:.0%} of the largest "
            f"({largest:.3f}, step {int(most.name):,})"
        )
    info(f"anchor: the teacher of step {int(best.name):,}: of {len(localities)} compared {reason}")
    return best


def _kept_at(setup: Setup, trainer: Trainer, step: int) -> Path:
    """Return the checkpoint that a stage means by a step: of this run the first from it on, after a bad step.

    Raises:
        UserError: if none was kept.
    """
    folder, kept = _earlier(setup.run, trainer)
    found = [each for each in kept if each == step or (folder == setup.run and each > step)]
    if not found:
        raise UserError(
            f"{folder.path} keeps no teacher of step {step}; "
            f"anchor.source may be {', '.join(map(str, kept)) or 'start'}"
        )
    return folder.checkpoint(found[0])


def _earlier(run: RunFolder, trainer: Trainer) -> tuple[RunFolder, list[int]]:
    """Return whose teachers a stage may go back to, and of which steps: of this run, or of the one it began with."""
    folder, last = run, trainer.first
    if trainer.first == 0 and trainer.experiment.start is not None:
        folder, named = run_and_step(Path(trainer.experiment.start.source))
        last = named if named is not None else max(folder.steps(), default=0)
    return folder, [step for step in folder.steps() if step <= last]


@torch.no_grad()
def _signs(path: Path, trainer: Trainer, probe: Probe) -> Mapping[str, float] | None:
    """Return the signs of a teacher's dense health; None if its file cannot be read."""
    try:
        network = load(path).to(trainer.device)
    except UserError as error:
        warn(f"anchor: not compared: {error}")
        return None
    with trainer.autocast():
        own = look(network, probe.batches(trainer.device))
        mirror = look(network, mirrored(probe.batches(trainer.device)))
    found = places(own.everyone(), mirror.everyone())
    if not found:
        raise UserError(
            f"anchor.source auto compares distances in maps of at least 3 patches in a row, got "
            f"{' x '.join(map(str, own.features.grid))}; set anchor.source to start, a step or the path of a model"
        )
    return found
