"""The health of a run, measured while it trains: on a probe that stays the same, without a trace in the run.

Student and teacher look at the probe in evaluation mode and without gradient; nothing is drawn, no weight, centre or
mode changes. When to measure is decided by what it costs, unless the settings say. What the numbers mean is said by
`verdict.py`.

Also told is whether the loader gives the same again: the same crops, or the same images sooner than their order allows.
Crops are told apart by a sum over some of their pixels, images by their index in the source. A rank remembers those of
the last few steps; when it is asked, all ranks compare, so that two ranks that are given the same are found too.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from dinokit.core import dist
from dinokit.core.messages import info, is_main, warn
from dinokit.health import vitals
from dinokit.health.probe import Look, Probe, look, mirrored
from dinokit.health.verdict import HEALTHY, STARTING, Line, Verdict, judged_from, verdict
from dinokit.health.vitals import places
from dinokit.objectives import assign
from dinokit.objectives.base import Objective
from dinokit.run.setup import Setup
from dinokit.training.step import Trainer
from dinokit.training.trained import HEADS
from dinokit.views.loader import Batch

SHARE = 0.02  # of the training time that measuring may take if the settings leave it open, but for the first verdict
_LOGITS = 1 << 25  # of one head in one look: 128 MiB of float32
NOTHING = ("", "")  # said so far: word and cause
# CLS of student and teacher when last measured
Before = tuple[Float32[Tensor, "image dim"], Float32[Tensor, "image dim"]]
RECENT = 8  # steps to remember: a loader that starts over, or a circle of a few batches
_PIXELS = 1024  # of a crop, about
_KEPT = 4000  # lines of the log that the verdict looks back on; older ones are thinned


@final
class Monitor:
    """What is measured of one start of a run, and what was said of it.

    Args:
        history: lines that the log has already.
    """

    def __init__(self, setup: Setup, trainer: Trainer, history: Sequence[Line] = ()) -> None:
        self.runtime, self.trainer = setup.config.runtime, trainer
        self.steps = trainer.first + trainer.experiment.steps  # of the run, when this stage ends
        self.on = self.runtime.health.every != 0
        self.probe = setup.probe(trainer, images=self.runtime.health.images) if self.on else None
        images = None if setup.images.mix is not None else len(setup.images)
        self.repeats = Repeats(images=images, batch=trainer.experiment.data.batch_size, device=trainer.device)
        self.trained = self.spent = self.last = 0.0  # seconds
        self.looked = -1  # step of the last look
        self.before: Before | None = None
        self.history: list[Line] = []
        self.said = NOTHING
        for line in history:
            self._remember(line)

    def after(self, step: int, micro_batches: Sequence[Batch], *, seconds: float) -> dict[str, float]:
        """Return what is due after a step, as values for the log; all ranks must call together.

        Args:
            step: number of steps done.
            seconds: that the step took.
        """
        self.trained += seconds
        if not self.on:
            return {}
        logged = step % self.runtime.log_every == 0 or step == self.steps
        if logged or -step % self.runtime.log_every <= RECENT:  # what the next line will compare
            self.repeats.add(micro_batches)
        with self.trainer.together():  # other teams are given the same images
            values = self.repeats.values() if logged else {}
        if self.probe is not None and self._due(step, logged=logged):
            began = time.monotonic()
            self.trainer.catch_up()
            still = self.trainer.experiment.optim.trained == HEADS  # that it does not move is no sign
            before = None if still else self.before
            found, self.before = measure(self.trainer, self.probe, step=step - 1 - self.trainer.first, before=before)
            values |= found
            self.last = time.monotonic() - began
            self.spent += self.last
            values["cost"] = self.spent / max(self.trained, 1e-9)
        return {f"health/{name}": value for name, value in values.items()}

    def judge(self, line: Line) -> Verdict | None:
        """Say how the run is after one more line of the log; aloud when that changes, and at the end."""
        if not self.on:
            return None
        self._remember(line)
        found = verdict(self.history)
        news = (found.word, found.cause) != self.said and (found.word != STARTING or self.said != NOTHING)
        if news or line["step"] == self.steps:
            (info if found.word in (HEALTHY, STARTING) else warn)(f"step {line['step']:,.0f} · {found.line}")
        self.said = (found.word, found.cause)
        return found

    def _due(self, step: int, *, logged: bool) -> bool:
        every = self.runtime.health.every
        if every is not None:
            return step % every == 0 or step == self.steps
        if not logged:
            return False
        due = step == self.steps
        if is_main() and not due:  # which has the history
            ready = judged_from(self.history)
            waited_for = ready is not None and self.looked < ready <= step
            due = waited_for or self.spent + self.last <= SHARE * self.trained
        (due,) = dist.any_rank(due)
        return due

    def _remember(self, line: Line) -> None:
        if "health/not_finite" in line:
            self.looked = line["step"]
        self.history.append(line)
        if len(self.history) > _KEPT:
            self.history[: _KEPT // 2] = self.history[: _KEPT // 2 : 2]


@torch.no_grad()
def measure(
    trainer: Trainer, probe: Probe, *, step: int, before: Before | None = None
) -> tuple[dict[str, float], Before | None]:
    """Look at the probe with student and teacher; return the vital signs, and what the next call compares with.

    All ranks must call together; rank 0 alone returns all signs.

    Args:
        step: counted from 0, at which schedules are read.
    """
    networks = (trainer.backbone.student, trainer.backbone.teacher)
    with trainer.autocast():
        own = [look(network, probe.batches(trainer.device)) for network in networks]
        mirror = look(trainer.backbone.teacher, mirrored(probe.batches(trainer.device))).everyone()
    student, teacher = (each.everyone() for each in own)
    whole = student.features.cls.isfinite().all(1) & teacher.features.cls.isfinite().all(1)  # [image]
    values = {"not_finite": 1 - float(whole.double().mean())}
    if not whole.all():
        return values, None
    for name, objective in trainer.objectives.items():
        with trainer.autocast():
            found = _opinions(objective, *own, step=step)
        values |= {f"{name}/{sign}": value for sign, value in found.items()}
    now = (student.features.cls, teacher.features.cls)
    if not is_main():
        return values, now
    for sign in vitals.MEASURES:
        values |= sign(vitals.Seen(student, teacher, probe.labels))
    values |= places(teacher, mirror)
    if before is not None:
        values |= {
            "student_change": vitals.change(now[0], before[0]),
            "teacher_change": vitals.change(now[1], before[1]),
        }
    return values, now


def _opinions(objective: Objective, student: Look, teacher: Look, *, step: int) -> dict[str, float]:
    """Return what student and teacher say of the probe by the prototypes of an objective; nothing if it owns none."""
    config, heads = getattr(objective, "config", None), list(objective.pairs().values())
    if not isinstance(config, assign.Config) or not heads:
        return {}
    patches = "masks" in objective.needs  # what is hidden is patches
    tokens = [
        vitals.some_patches(each.features.patches) if patches else each.features.cls for each in (student, teacher)
    ]
    prototypes = heads[0].teacher(tokens[1][:1]).shape[1]
    thinner = -(-len(tokens[1]) * prototypes // _LOGITS)
    guess, logits = (
        head(each[::thinner]).float() for head, each in zip((heads[0].student, heads[0].teacher), tokens, strict=True)
    )
    temperature = config.teacher_temperature.at(step)
    centre = next((part.centre for part in objective.modules() if isinstance(part, assign.Targets)), None)
    softmax = ((logits if centre is None else logits - centre) / temperature).softmax(dim=1)
    targets = softmax
    if config.targets == "sinkhorn":
        targets = assign.sinkhorn(logits, temperature=temperature, iterations=config.sinkhorn_iterations)
    return vitals.opinions((guess / config.student_temperature).softmax(dim=1), softmax, targets)


@final
class Repeats:
    """What the last steps were made of.

    Args:
        images: in the source; None where images are not seen equally often (a mixture).
        batch: images per step, over all ranks.
    """

    def __init__(self, *, images: int | None, batch: int, device: torch.device) -> None:
        # so few steps that of a source in random order at most a quarter should return, also where a pass ends
        self.steps_of_images = min(RECENT, (images or 0) // (4 * batch))
        self.device = device  # where collectives want their tensors
        self._steps: deque[Int64[Tensor, "2 image"]] = deque(maxlen=RECENT + 1)

    def add(self, micro_batches: Sequence[Batch]) -> None:
        """Remember a step's images and crops."""
        indices = torch.cat([torch.from_numpy(batch.indices) for batch in micro_batches])
        crops = [batch.views.global_crops[0].flatten(1) for batch in micro_batches]  # each [image, pixel]
        some = torch.cat([each[:, :: max(1, each.shape[1] // _PIXELS)].double() for each in crops])
        weights = torch.arange(1, some.shape[1] + 1, dtype=torch.float64).sqrt()  # so that order counts
        sums = (some * weights).sum(dim=1)
        self._steps.append(torch.stack([indices, sums.view(torch.int64)]))  # told apart by their bits

    def values(self) -> dict[str, float]:
        """Return the share of the newest step's crops and images that were given before; all ranks must call."""
        steps = torch.stack(list(self._steps)).to(self.device)  # [step, 2, image]
        steps = dist.all_gather(steps.permute(2, 0, 1).contiguous()).cpu()  # [everyone, step, 2]
        found = {"repeated_crops": _share(steps[:, :, 1])}
        if self.steps_of_images:
            found["repeated_images"] = _share(steps[:, -1 - self.steps_of_images :, 0])
        return found


def _share(marks: Int64[Tensor, "image step"]) -> float:
    """Return the share of the last step's marks that occur in an earlier step, or earlier in the last."""
    newest = marks[:, -1].contiguous()
    earlier = torch.isin(newest, marks[:, :-1].contiguous())
    _, kind = torch.unique(newest, return_inverse=True)
    order = kind.argsort(stable=True)
    again = torch.zeros_like(earlier)
    again[order[1:]] = kind[order[1:]] == kind[order[:-1]]
    return float((earlier | again).double().mean())
