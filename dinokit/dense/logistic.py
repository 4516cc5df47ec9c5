"""Multinomial logistic regression on frozen features, solved to the end for every strength of the penalty.

For every C the minimum of

    sum_i cross-entropy_i + |W|^2 / (2 C)

is found, the bias free of penalty: with several classes what scikit-learn calls multinomial, with two the binary one,
whose single vector w = W_1 - W_0 is penalised by |w|^2 / (2 C). Where a sample may be of several classes, each class
has a binary one of its own (`each_against_others`); they are solved side by side, for products of matrices cost what
those of one of them cost.

Newton's method. A step is found by conjugate gradients in float32 and judged in float64, so that rounding costs
iterations and not digits. Three things make them few: the unknowns are those of decorrelated features, of mean 0 and
variance 1; each is scaled by the diagonal of the Hessian; and C grows, every solution and the way it has moved being
the start of the next. In float32 the own class of a sample, whose probability is almost 1, is the origin of its scores:
what tells its curvature from 0 would be lost otherwise.

Source: Nocedal and Wright, Numerical Optimization, 2006, section 7.1; the objective as in DINOv2 (arXiv:2304.07193,
section 7.3).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float32, Float64, Int8, Int64
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.device import slices
from dinokit.core.messages import RunError

TOLERANCE = 1e-7  # what a last step may still gain, relative to an objective below 1; the error after it is far smaller
ACCURACY = 0.03  # of the direction of a step: its remaining residual
STEPS, PRODUCTS, HALVINGS = 200, 1000, 40  # at most: steps of a solution, products of a step, its halvings
# what adds less to a sum of curvatures is 0: numbers that float32 only just holds cost a processor a hundred times more
UNSEEN = 1e-20
NEGLIGIBLE = 1e-8  # a direction in which no C can move a score by more is left out

IS, IS_NOT, OPEN = 1, 0, -1  # of a sample and a class

Unknowns = Float64[Tensor, "direction class"]  # weights of decorrelated features; the last row is the bias


@dataclass(frozen=True)
class Solution:
    """A linear classifier."""

    weight: Float64[Tensor, "class width"]
    bias: Float64[Tensor, " class"]

    def __call__(self, samples: Float[Tensor, "sample width"]) -> Float64[Tensor, "sample class"]:
        """Score the classes; a softmax makes probabilities of it."""
        return samples.double() @ self.weight.T + self.bias

    def margin(self, samples: Float[Tensor, "sample width"]) -> Float64[Tensor, " sample"]:
        """Return how much the second of two classes scores above the first."""
        return self(samples).diff(dim=1)[:, 0]


def solutions(
    samples: Float[Tensor, "sample width"],
    labels: Int64[Tensor, " sample"],
    cs: Sequence[float],
) -> Iterator[Solution]:
    """Yield the solution for each C; the weights, and the biases, sum to 0 over the classes.

    Memory beside the samples: a copy in float32, and a float32 per sample and class.

    Args:
        labels: from 0 to the number of classes - 1, all of which occur; two classes or more.
        cs: rising.
    """
    problem = _OneOfAll(samples, labels, largest=cs[-1])
    # of two classes a single vector is penalised
    return _path(problem, cs, scale=0.5 if problem.classes == 2 else 1.0)


def each_against_others(
    samples: Float[Tensor, "sample width"],
    truth: Int8[Tensor, "sample class"],
    cs: Sequence[float],
) -> Iterator[Solution]:
    """Yield for each C the solutions of as many regressions of two classes, found together: a class or none of it.

    Args:
        truth: IS, IS_NOT, or OPEN where a sample does not count for a class; of each class the first two occur.
        cs: rising.
    """
    return _path(_EachAgainstOthers(samples, truth, largest=cs[-1]), cs, scale=1.0)


def _path(problem: "_Problem", cs: Sequence[float], *, scale: float) -> Iterator[Solution]:
    assert list(cs) == sorted(set(cs)), "the start of every solution is the one before, for a smaller C"
    values = before = torch.zeros_like(problem.penalty).repeat(1, problem.classes)
    for place, c in enumerate(cs):
        share = 0.0 if place < 2 else min(math.log(c / cs[place - 1]) / math.log(cs[place - 1] / cs[place - 2]), 1.0)
        start, before = values + share * (values - before), values
        values = _solved(problem, start, c * scale)
        yield problem.solution(values)


def _solved(problem: "_Problem", values: Unknowns, c: float) -> Unknowns:
    """Return the unknowns that minimise the objective, or each of several objectives."""
    loss, gradient = problem.look(values, c)
    diagonal = problem.diagonal(c)
    for _ in range(STEPS):
        step = _direction(problem, gradient, diagonal, c).double()
        gain = -problem.summed(gradient * step)  # twice what a step of a quadratic gains
        done = gain <= TOLERANCE * loss.clamp(max=1.0)
        if done.all():
            return values + step
        for _ in range(HALVINGS):
            found, slope = problem.look(values + step, c)
            # rounding of a sum may hide what is gained
            shorter = (found > loss - 1e-4 * gain + 1e-12 * loss) & ~done
            if not shorter.any():
                break
            part = torch.where(shorter, 0.5, 1.0)
            step, gain = step * part, gain * part
        values, loss, gradient = values + step, found, slope
    raise RunError(f"the logistic regression for C = {c:g} has no end after {STEPS} steps; leave large C out with --c")


def _direction(
    problem: "_Problem", gradient: Unknowns, diagonal: Tensor, c: float
) -> Float32[Tensor, "direction class"]:
    """Solve Hessian x = -gradient by conjugate gradients; of several objectives each by its own."""
    residual = -gradient.float()
    found, scaled = torch.zeros_like(residual), residual / diagonal
    along, size = scaled, problem.summed(residual * scaled)
    enough = ACCURACY**2 * size.double()
    for _ in range(PRODUCTS):
        going = size > enough
        if not going.any():
            break
        bent = problem.curvature(along, c)
        length = torch.where(going, size / problem.summed(along * bent), 0.0)
        found, residual = found + length * along, residual - length * bent
        scaled = residual / diagonal
        size, last = problem.summed(residual * scaled), size
        along = scaled + torch.where(going, size / last, 0.0) * along
    return found


class _Problem(ABC):
    """Samples, and the objective and its derivatives by the unknowns of decorrelated features."""

    def __init__(self, samples: Float[Tensor, "sample width"], *, classes: int, largest: float) -> None:
        """Decorrelate the features.

        Args:
            classes: columns of the unknowns.
            largest: of all C to come.
        """
        count, width = samples.shape
        self.samples, self.classes = samples, classes
        self.blocks = slices(samples.device, rows=max(width, self.classes), columns=count)
        self.mean = samples.mean(dim=0, dtype=torch.float64)  # [width]
        axes = self._axes()  # [width, direction]
        turned = torch.cat([self._centred(block) @ axes for block in self.blocks])  # [sample, direction]
        variance = turned.square().mean(dim=0)
        # a weight is the sum of C times residuals, at most 1, times features
        kept = largest * count * variance > NEGLIGIBLE
        self.variance, deviation = variance[kept], variance[kept].sqrt()
        self.turn = axes[:, kept] / deviation  # [width, direction]
        self.turned = F.pad((turned[:, kept] / deviation).float(), (0, 1), value=1.0)  # [sample, direction]
        self.penalty = F.pad(1 / self.variance, (0, 1))[:, None]  # [direction, 1]
        # what the curvature depends on, where the objective was last looked at
        self.shares = turned.new_empty(count, self.classes, dtype=torch.float32)  # [sample, class]

    @abstractmethod
    def summed(self, values: Float[Tensor, "row column"]) -> Float[Tensor, " objective"]:
        """Sum what belongs to one objective."""

    @abstractmethod
    def measured(
        self, scores: Float64[Tensor, "some class"], block: slice
    ) -> tuple[Float64[Tensor, "some part"], Float64[Tensor, "some class"]]:
        """Return what some samples add to the objective, and the derivatives by their scores; keep their `shares`."""

    @abstractmethod
    def diagonal(self, c: float) -> Float32[Tensor, "direction class"]:
        """Return that of the Hessian where the objective was last looked at."""

    @abstractmethod
    def curvature(self, direction: Float32[Tensor, "direction class"], c: float) -> Float32[Tensor, "direction class"]:
        """Return the Hessian there times a direction."""

    @abstractmethod
    def solution(self, values: Unknowns) -> Solution:
        """Return what some unknowns mean."""

    def plain(self, values: Unknowns) -> tuple[Float64[Tensor, "width class"], Float64[Tensor, " class"]]:
        """Return weights and biases of the features as they were given."""
        weight = self.turn @ values[:-1]  # [width, class]
        return weight, values[-1] - self.mean @ weight

    def look(self, values: Unknowns, c: float) -> tuple[Float64[Tensor, " objective"], Unknowns]:
        """Return the objective and its gradient, of the samples as they were given."""
        weight, bias = self.plain(values)
        loss, sums, total = self.summed(values) * 0, torch.zeros_like(weight), torch.zeros_like(bias)
        for block in self.blocks:
            samples = self.samples[block].double()
            added, errors = self.measured(samples @ weight + bias, block)
            loss += self.summed(added)
            sums.addmm_(samples.T, errors)
            total += errors.sum(dim=0)
        shrinking = self.penalty * values / c
        gradient = torch.cat([self.turn.T @ (sums - self.mean[:, None] * total), total[None]]) + shrinking
        return loss + self.summed(shrinking * values) / 2, gradient

    def _axes(self) -> Float64[Tensor, "width axis"]:
        """Return the principal axes of the samples; orthogonal whatever the rounding of sums."""
        count, width = self.samples.shape
        if width > count:
            plane = torch.linalg.qr(self._centred(slice(None)).T).Q  # [width, sample]
            inside = self._centred(slice(None)) @ plane
            inner: Tensor = plane @ torch.linalg.eigh(inside.T @ inside).eigenvectors
            return inner
        gram = self.mean.new_zeros(width, width)
        for block in self.blocks:
            centred = self._centred(block)
            gram.addmm_(centred.T, centred)
        axes: Tensor = torch.linalg.eigh(gram).eigenvectors
        return axes

    def _centred(self, block: slice) -> Float64[Tensor, "sample width"]:
        return self.samples[block].double() - self.mean


@final
class _OneOfAll(_Problem):
    """Every sample is of one class: the cross-entropy of a softmax."""

    def __init__(
        self, samples: Float[Tensor, "sample width"], labels: Int64[Tensor, " sample"], *, largest: float
    ) -> None:
        super().__init__(samples, classes=int(labels.max()) + 1, largest=largest)
        self.labels = labels

    def summed(self, values: Float[Tensor, "row column"]) -> Float[Tensor, " objective"]:
        return values.sum()[None]

    def measured(
        self, scores: Float64[Tensor, "some class"], block: slice
    ) -> tuple[Float64[Tensor, "some part"], Float64[Tensor, "some class"]]:
        own = self.labels[block, None]
        logs = scores.log_softmax(dim=1)  # [some, class]
        added = -logs.gather(1, own)
        errors = logs.exp_()
        self.shares[block] = F.threshold(errors, UNSEEN, 0.0)  # probabilities
        errors.scatter_add_(1, own, errors.new_full(own.shape, -1.0))
        return added, errors

    def diagonal(self, c: float) -> Float32[Tensor, "direction class"]:
        found = (self.penalty / c).float().repeat(1, self.classes)
        for block in self.blocks:
            shares = self.shares[block]
            found.addmm_(self.turned[block].square().T, shares * (1 - shares))
        return found.clamp_min_(torch.finfo(torch.float32).tiny ** 0.5)

    def curvature(self, direction: Float32[Tensor, "direction class"], c: float) -> Float32[Tensor, "direction class"]:
        found = (self.penalty / c).float() * direction
        for block in self.blocks:
            shares, turned = self.shares[block], self.turned[block]
            moved = turned @ direction  # [sample, class]
            moved = moved.sub_(moved.gather(1, self.labels[block, None])).mul_(shares)
            found.addmm_(turned.T, moved.addcmul_(shares, moved.sum(dim=1, keepdim=True), value=-1))
        return found

    def solution(self, values: Unknowns) -> Solution:
        weight, bias = self.plain(values)
        weight, bias = weight - weight.mean(dim=1, keepdim=True), bias - bias.mean()
        return Solution(weight.T.contiguous(), bias)


@final
class _EachAgainstOthers(_Problem):
    """A sample is of any classes: the cross-entropy of a sigmoid for each, so that every column is a problem."""

    def __init__(
        self, samples: Float[Tensor, "sample width"], truth: Int8[Tensor, "sample class"], *, largest: float
    ) -> None:
        super().__init__(samples, classes=truth.shape[1], largest=largest)
        self.truth = truth

    def summed(self, values: Float[Tensor, "row column"]) -> Float[Tensor, " objective"]:
        return values.sum(dim=0)

    def measured(
        self, scores: Float64[Tensor, "some class"], block: slice
    ) -> tuple[Float64[Tensor, "some part"], Float64[Tensor, "some class"]]:
        truth = self.truth[block]
        counts, towards = (truth != OPEN).double(), torch.where(truth == IS, -1.0, 1.0)
        added = F.softplus(towards * scores) * counts
        errors = towards * (towards * scores).sigmoid() * counts
        seconds = scores.sigmoid() * (-scores).sigmoid() * counts  # derivatives
        self.shares[block] = F.threshold(seconds, UNSEEN, 0.0)
        return added, errors

    def diagonal(self, c: float) -> Float32[Tensor, "direction class"]:
        found = (self.penalty / c).float().repeat(1, self.classes)
        for block in self.blocks:
            found.addmm_(self.turned[block].square().T, self.shares[block])
        return found.clamp_min_(torch.finfo(torch.float32).tiny ** 0.5)

    def curvature(self, direction: Float32[Tensor, "direction class"], c: float) -> Float32[Tensor, "direction class"]:
        found = (self.penalty / c).float() * direction
        for block in self.blocks:
            turned = self.turned[block]
            found.addmm_(turned.T, (turned @ direction).mul_(self.shares[block]))
        return found

    def solution(self, values: Unknowns) -> Solution:
        weight, bias = self.plain(values)
        return Solution(weight.T.contiguous(), bias)
