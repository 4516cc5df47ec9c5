"""Gram anchoring: the similarities between the patches of an image shall stay what they were in an earlier network.

Over a long training the patch features of different places grow alike while the image-level loss still falls. The Gram
matrix of the normalised patches holds all their cosines; it is pulled towards that of an anchor, an earlier teacher
that sees the same crop larger and undistorted. Single features stay free to move, as long as their similarities hold.

    L = mean over the entries of (S S' - G G')^2        S, G: [patch, dim], rows of length 1, of student and anchor

Source: DINOv3 (arXiv:2508.10104) section 4. The paper writes the squared Frobenius norm; the mean over entries is what
its weight of 2 belongs to.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dinokit.core.numbers import Schedule, at_least, constant
from dinokit.objectives import base

Clamp = Literal["none", "both", "anchor"]
Form = Literal["patches", "dims"]


@dataclass(frozen=True, kw_only=True)
class Config(base.Config):
    """Defaults: DINOv3's Gram stage; its high-resolution stage has weight 1.5."""

    weight: float = at_least(0, 2.0)  # of the mean over entries
    scale: Schedule = field(default_factory=lambda: constant(1.0))  # on the weight, per step of the stage
    clamp: Clamp = "none"  # similarities below 0 count as 0: on neither side, on both, or the anchor's

    def for_students(self) -> None:
        """Say that students have no use for it: a frozen teacher's patches stay what they are."""

    def operations(self, seen: base.Seen) -> float:
        """Count the products of one image at a time, in the cheaper form."""
        return float(seen.crops * 2 * seen.patches * seen.dim * min(3 * seen.patches, 5 * seen.dim))


class Objective(base.Objective):
    """The loss on the student's patches of the global crops. It has no parameters and no state."""

    needs = frozenset({"student_global", "anchor_global"})

    def forward(self, inputs: base.Inputs, *, step: int) -> base.Losses:
        """Compute `gram` over both global crops."""
        assert inputs.student_global is not None
        assert inputs.anchor_global is not None
        student = inputs.student_global.flatten()  # [view * batch, ...]
        anchor = on_grid(inputs.anchor_global.flatten().maps, student.grid)
        loss = gram(student.patches, anchor, clamp=self.config.clamp)
        return base.Losses(terms={"gram": loss}, weights={"gram": self.config.weight * self.config.scale.at(step)})


def on_grid(maps: Float[Tensor, "image dim rows columns"], grid: tuple[int, int]) -> Float[Tensor, "image patch dim"]:
    """Return the patches of a larger crop on the grid of a smaller one, bicubic, before any normalisation."""
    if tuple(maps.shape[2:]) != grid:
        maps = functional.interpolate(maps.float(), grid, mode="bicubic", align_corners=False)
    return maps.flatten(2).transpose(1, 2)


def gram(
    student: Float[Tensor, "image patch dim"],
    anchor: Float[Tensor, "image patch dim"],
    *,
    clamp: Clamp = "none",
    form: Form | None = None,
) -> Float[Tensor, ""]:
    """Return the mean squared difference of the cosines between patches, in float32 or wider.

    Args:
        student: of any lengths; the gradient goes here alone.
        anchor: the same places seen by the anchor.
        clamp: whose cosines below 0 count as 0.
        form: how it is computed, see `_of_dims`; None: whatever takes fewer operations. Clamping needs "patches".
    """
    if form is None:
        patches, dim = student.shape[1:]
        form = "dims" if clamp == "none" and 5 * dim < 3 * patches else "patches"
    assert form == "patches" or clamp == "none", "clamping needs the matrix of all patches"
    with torch.autocast(student.device.type, enabled=False):
        wide = torch.promote_types(student.dtype, torch.float32)
        ours, theirs = (functional.normalize(patches.to(wide), dim=-1) for patches in (student, anchor.detach()))
        loss: Tensor = _Gram.apply(ours, theirs, clamp, form)
    return loss


class _Gram(torch.autograd.Function):
    """One image at a time, its gradient at once: memory for one Gram matrix, whatever the batch."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, anchor: Tensor, clamp: Clamp, form: Form) -> Tensor:
        gradient = torch.empty_like(student)
        total = student.new_zeros(())
        for ours, theirs, out in zip(student, anchor, gradient, strict=True):
            if form == "dims":
                total += _of_dims(ours, theirs, out=out)
            else:
                total += _of_patches(ours, theirs, clamp, out=out)
        entries = max(student.shape[0] * student.shape[1] ** 2, 1)
        ctx.save_for_backward(gradient.mul_(4 / entries))
        return total / entries

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None


def _of_patches(
    student: Float[Tensor, "patch dim"], anchor: Float[Tensor, "patch dim"], clamp: Clamp, *, out: Tensor
) -> Float[Tensor, ""]:
    """Return |D|^2 with D = S S' - G G', and in `out` a quarter of its gradient, D S."""
    ours, theirs = student @ student.T, anchor @ anchor.T
    if clamp != "none":
        theirs.clamp_(min=0)
    difference = ours.clamp(min=0).sub_(theirs) if clamp == "both" else ours - theirs
    total = difference.square().sum()
    if clamp == "both":
        difference.mul_(ours > 0)
    torch.mm(difference, student, out=out)
    return total


def _of_dims(
    student: Float[Tensor, "patch dim"], anchor: Float[Tensor, "patch dim"], *, out: Tensor
) -> Float[Tensor, ""]:
    """Return the same by matrices of [dim, dim]: with A = S - G and B = S + G, D = (A B' + B A') / 2 and

        |D|^2 = (<A'A, B'B> + <A'B, B'A>) / 2        D S = (A (B'A + B'B) + B (A'A + A'B)) / 4

    Unlike |S'S|^2 + |G'G|^2 - 2 |S'G|^2 this is no difference of large numbers when S is close to G.
    """
    apart, both = student - anchor, student + anchor
    aa, bb, ab = apart.T @ apart, both.T @ both, apart.T @ both  # [dim, dim] each
    torch.mm(apart, ab.T + bb, out=out)
    out.addmm_(both, aa + ab).div_(4)
    return ((aa * bb).sum() + (ab * ab.T).sum()) / 2
