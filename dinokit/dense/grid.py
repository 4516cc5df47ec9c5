"""Many linear heads on one backbone, trained in one pass: a grid of readings, learning rates and weight decays.

Heads that read the same of an image are one tensor [head, class, dim], so that a step is two large products for all of
them: (head * class) x dim by dim x batch for the logits, and one as large back for the gradient, which is added to the
momentum by the product itself. Logits are [head, class, batch]: a softmax over ten classes takes a sixteenth of the
time where images lie side by side; over 1,000, where it is little of a step, twice as much. What an image gives is read
once, at its widest (`Layout`), and each head takes columns of it. No head sees another: one that diverges stays alone,
and a head of a grid is the head that is trained alone, up to rounding. Source: DINOv2 (arXiv:2304.07193, section 7.1);
DINOv3 (arXiv:2508.10104, appendix D).

Weights begin at N(0, 0.01), the same for all heads of a reading; biases at 0. SGD has momentum 0.9 and adds the decay
to the gradient; AdamW decays the weights by the rate. The loop is that of all sweeps (`dense/sweep.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.nn import functional as F

from dinokit.core import device as devices
from dinokit.core.numbers import at_least
from dinokit.core.seed import derived
from dinokit.dense.sweep import adamw, falling
from dinokit.models.classifier import Reading

MOMENTUM = 0.9  # of SGD

Optimizer = Literal["sgd", "adamw"]
Loss = Literal["ce", "bce"]


@dataclass(frozen=True)
class Layout:
    """Where what heads read lies in the widest row: CLS of blocks, the earliest first, then the mean patch."""

    blocks: int  # CLS of so many last blocks
    dim: int  # numbers of each
    mean: int  # numbers of the mean patch; 0: it is not there

    def columns(self, reading: Reading) -> slice:
        """Return the columns of a reading, which lie side by side."""
        assert reading.blocks <= self.blocks
        assert not reading.mean_patch or self.mean
        end = self.blocks * self.dim
        return slice(end - reading.blocks * self.dim, end + (self.mean if reading.mean_patch else 0))

    @property
    def reading(self) -> Reading:
        """What all of it is."""
        return Reading(blocks=self.blocks, mean_patch=self.mean > 0)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One head of a grid."""

    reading: Reading
    lr: float  # peak
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """How all heads are trained."""

    iterations: int = at_least(1)  # steps
    optimizer: Optimizer
    loss: Loss  # ce: softmax cross-entropy; bce: binary cross-entropy of each class by itself
    seed: int = at_least(0)  # of the initial weights


@final
class Heads:
    """The heads of one reading, stacked."""

    def __init__(
        self,
        members: Sequence[Member],
        layout: Layout,
        *,
        classes: int,
        training: Training,
        device: torch.device,
    ) -> None:
        reading, self.training = members[0].reading, training
        assert all(member.reading == reading for member in members)
        self.columns, heads = layout.columns(reading), len(members)
        dim = self.columns.stop - self.columns.start
        key = derived(training.seed, reading.blocks, int(reading.mean_patch))
        first = torch.randn(classes, dim, generator=torch.Generator().manual_seed(key)).mul_(0.01)
        self.weight = first.to(device).repeat(heads, 1, 1)  # [head, class, dim]
        self.bias = torch.zeros(heads, classes, device=device)
        count = 1 if training.optimizer == "sgd" else 2
        self.moments = [(torch.zeros_like(self.weight), torch.zeros_like(self.bias)) for _ in range(count)]
        self.lr = torch.tensor([member.lr for member in members], device=device)
        self.decay = torch.tensor([member.weight_decay for member in members], device=device)
        self._decays = any(member.weight_decay for member in members)

    def logits(
        self, seen: Float[Tensor, "batch width"], part: slice = slice(None)
    ) -> Float[Tensor, "head class batch"]:
        """Score the classes by some heads."""
        weight, bias = self.weight[part], self.bias[part]
        found = torch.addmm(bias.view(-1, 1), weight.flatten(0, 1), seen[:, self.columns].T)  # [head * class, batch]
        return found.view(*bias.shape, -1)

    def parts(self, batch: int) -> list[slice]:
        """Return the heads whose logits are held at once."""
        heads, classes = self.bias.shape
        return devices.slices(self.bias.device, rows=batch * classes, columns=heads)

    def step(self, seen: Float[Tensor, "batch width"], targets: Shaped[Tensor, "batch *class"], *, step: int) -> None:
        """Take one step with every head."""
        for part in self.parts(len(seen)):
            slopes = _slopes(self.logits(seen, part), targets, self.training.loss).flatten(
                0, 1
            )  # [head * class, batch]
            update = self._sgd if self.training.optimizer == "sgd" else self._adamw
            update(part, slopes, seen[:, self.columns], step)

    def _scale(self, batch: int) -> float:
        """Return what makes a mean of the slopes of images."""
        return 1 / batch if self.training.loss == "ce" else 1 / (batch * self.bias.shape[1])

    def _sgd(
        self, part: slice, slopes: Float[Tensor, "output batch"], x: Float[Tensor, "batch dim"], step: int
    ) -> None:
        rate, decay, scale = (
            -self.lr[part] * falling(step, self.training.iterations),
            self.decay[part],
            self._scale(len(x)),
        )
        (weight_moment, bias_moment), *_ = ((one[part], other[part]) for one, other in self.moments)
        flat = weight_moment.flatten(0, 1)  # a view of [head * class, dim]
        torch.addmm(flat, slopes, x, beta=MOMENTUM, alpha=scale, out=flat)
        bias_moment.mul_(MOMENTUM).add_(slopes.sum(dim=1).view_as(bias_moment), alpha=scale)
        for value, moment in ((self.weight[part], weight_moment), (self.bias[part], bias_moment)):
            by_head = (-1,) + (1,) * (value.ndim - 1)
            if self._decays:
                moment.addcmul_(value, decay.view(by_head))
            value.addcmul_(moment, rate.view(by_head))

    def _adamw(
        self, part: slice, slopes: Float[Tensor, "output batch"], x: Float[Tensor, "batch dim"], step: int
    ) -> None:
        slopes = slopes * self._scale(len(x))
        rate, decay = self.lr[part] * falling(step, self.training.iterations), self.decay[part]
        slope = (slopes @ x).view_as(self.weight[part]), slopes.sum(dim=1).view_as(self.bias[part])
        for place, value in enumerate((self.weight[part], self.bias[part])):
            mean, square = (moments[place][part] for moments in self.moments)
            adamw(value, slope[place], (mean, square), rate=rate, decay=decay, step=step)


@final
class Grid:
    """All heads, reading by reading; `members` says which is which, in that order."""

    def __init__(
        self,
        members: Sequence[Member],
        layout: Layout,
        *,
        classes: int,
        training: Training,
        device: torch.device,
    ) -> None:
        groups: dict[Reading, list[Member]] = {}
        for member in members:
            groups.setdefault(member.reading, []).append(member)
        self.members = [member for group in groups.values() for member in group]
        self.layout, self.classes, self.training, self.device = layout, classes, training, device
        self.groups = [
            Heads(group, layout, classes=classes, training=training, device=device) for group in groups.values()
        ]

    @torch.no_grad()
    def step(self, seen: Float[Tensor, "batch width"], targets: Shaped[Tensor, "batch *class"], *, step: int) -> None:
        """Take one step with every head.

        Args:
            targets: class numbers, or of images of several classes how much of each is wanted: for ce rows with the sum
                1, for bce 0 and 1, or NaN where an image counts neither way.
        """
        for heads in self.groups:
            heads.step(seen, targets, step=step)

    @torch.no_grad()
    def losses(
        self, seen: Float[Tensor, "batch width"], targets: Shaped[Tensor, "batch *class"]
    ) -> Float[Tensor, " head"]:
        """Return the loss of every head on some images."""
        found = []
        for heads in self.groups:
            for part in heads.parts(len(seen)):
                logits = heads.logits(seen, part)
                wanted = _shares(targets, self.classes)  # [class, batch]
                if self.training.loss == "ce":
                    each = -(logits.log_softmax(dim=1) * wanted).sum(dim=1)  # [head, batch]
                else:
                    each = F.binary_cross_entropy_with_logits(
                        logits, wanted.nan_to_num(0.0).expand_as(logits), reduction="none"
                    )
                    each = each.masked_fill(wanted.isnan(), 0.0).mean(dim=1)
                found.append(each.mean(dim=1))
        return torch.cat(found)

    @torch.no_grad()
    def answers(self, seen: Float[Tensor, "image width"]) -> Int64[Tensor, "head image"]:
        """Return the class with the highest logit, by every head; of equal ones the first."""
        found = [heads.logits(seen, part).argmax(dim=1) for heads in self.groups for part in heads.parts(len(seen))]
        return torch.cat(found)

    def finite(self) -> Bool[Tensor, " head"]:
        """Tell which heads have not diverged."""
        each = [heads.weight.isfinite().flatten(1).all(1) & heads.bias.isfinite().all(1) for heads in self.groups]
        return torch.cat(each)

    def head(self, index: int) -> tuple[Float[Tensor, "class dim"], Float[Tensor, " class"]]:
        """Return weight and bias of one head."""
        for heads in self.groups:
            if index < len(heads.bias):
                return heads.weight[index], heads.bias[index]
            index -= len(heads.bias)
        raise IndexError(index)

    @torch.no_grad()
    def undo(self, mean: Float[Tensor, " width"], scale: Float[Tensor, " width"]) -> None:
        """Have heads that were trained on (rows - mean) / scale say the same of the rows themselves."""
        for heads in self.groups:
            heads.weight.div_(scale[heads.columns])
            heads.bias.sub_(heads.weight @ mean[heads.columns])

    def state(self) -> list[Any]:
        """Return what a training is continued from."""
        return [[heads.weight, heads.bias, *(each for pair in heads.moments for each in pair)] for heads in self.groups]


def _slopes(
    logits: Float[Tensor, "head class batch"], targets: Shaped[Tensor, "batch *class"], loss: Loss
) -> Float[Tensor, "head class batch"]:
    """Return the slope of the loss of each image by its logits, which may be overwritten; of bce without the mean."""
    heads, classes, batch = logits.shape
    if loss == "bce":
        wanted = _shares(targets, classes)
        return logits.sigmoid_().sub_(wanted).masked_fill_(wanted.isnan(), 0.0)
    shares = logits.softmax(dim=1)
    if targets.ndim > 1:  # several classes share an image
        return shares.sub_(_shares(targets, classes))
    place = targets.expand(heads, 1, batch)
    return shares.scatter_add_(1, place, shares.new_full((1, 1, 1), -1.0).expand(heads, 1, batch))


def _shares(targets: Shaped[Tensor, "batch *class"], classes: int) -> Float[Tensor, "class batch"]:
    """Return how much of each class is wanted."""
    return (F.one_hot(targets, classes) if targets.ndim == 1 else targets).T.float()
