"""Cross-entropy over prototypes, a few prototypes at a time.

    log p_ij = s_ij - log sum_k exp s_ik        s_ij = <v_i, w_j> / temperature
    loss_i   = - sum_j q_ij log p_ij            = mass_i log sum_k exp s_ik - sum_j q_ij s_ij
    d loss_i / d s_ij = mass_i p_ij - q_ij      mass_i = sum_j q_ij

With 65,536 prototypes one matrix [sample, prototype] is larger than all the rest of a small network, and the textbook
form holds half a dozen: logits, their float32 copy, log-softmax, products, gradients. Here none is ever whole: logits
are computed for a slice of the prototypes that fits the caches, used, and computed again for the gradient.
Source: the loss is that of DINO (arXiv:2104.14294), equation 2; the running log-sum-exp follows Milakov and Gimelshein
2018 (arXiv:1805.02867).
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dinokit.core.device import slices


def cross_entropy(
    vectors: Float[Tensor, "sample width"],
    prototypes: Float[Tensor, "prototype width"],
    targets: Float[Tensor, "row prototype"],
    *,
    temperature: float,
    rows: Int[Tensor, " sample"] | None = None,
) -> Float[Tensor, " sample"]:
    """Return the cross-entropy of each sample with its row of the targets, in float32 (float64 for such vectors).

    The products run in the autocast dtype. Gradients reach vectors and prototypes, not the targets.

    Args:
        vectors: the outcome of a head's `project`.
        prototypes: `Head.weight`.
        targets: rows of any mass: for several targets of a sample hand over their sum.
        temperature: of the student's softmax.
        rows: row of the targets that belongs to each sample, so that several may share one; None: one row each.
    """
    kind = vectors.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else prototypes.dtype
    with torch.autocast(kind, enabled=False):
        scaled = (vectors.to(_exact(prototypes)) / temperature).to(dtype)
        losses: Tensor = _CrossEntropy.apply(scaled, prototypes, targets, rows)
    return losses


class _CrossEntropy(torch.autograd.Function):
    """Forward keeps one log-sum-exp per sample; backward computes the logits again."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, prototypes: Tensor, targets: Tensor, rows: Tensor | None) -> Tensor:
        normaliser = vectors.new_full((len(vectors),), -torch.inf, dtype=_exact(prototypes))  # [sample], log sum exp
        agreement, mass = torch.zeros_like(normaliser), torch.zeros_like(normaliser)
        for logits, wanted, _ in _slices(vectors, prototypes, targets, rows):
            agreement += torch.linalg.vecdot(wanted, logits)
            mass += wanted.sum(dim=1)
            normaliser = torch.logaddexp(normaliser, logits.logsumexp(dim=1))
        ctx.save_for_backward(vectors, prototypes, targets, rows, normaliser, mass)
        return mass * normaliser - agreement

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        vectors, prototypes, targets, rows, normaliser, mass = ctx.saved_tensors
        of_vectors = torch.zeros_like(vectors, dtype=_exact(prototypes))
        of_prototypes = torch.empty_like(prototypes)
        for logits, wanted, part in _slices(vectors, prototypes, targets, rows):
            chances = logits.sub_(normaliser[:, None]).exp_()
            of_logits = chances.mul_((mass * gradient)[:, None]).addcmul_(wanted, -gradient[:, None])
            of_logits = of_logits.to(vectors.dtype)
            of_vectors += of_logits @ prototypes[part].to(vectors.dtype)
            of_prototypes[part] = of_logits.T @ vectors
        return of_vectors.to(vectors.dtype), of_prototypes, None, None


def _slices(
    vectors: Tensor, prototypes: Tensor, targets: Tensor, rows: Tensor | None
) -> Iterator[tuple[Float[Tensor, "sample part"], Float[Tensor, "sample part"], slice]]:
    """Yield logits and targets of some prototypes after the other, rounded by the product alone."""
    exact = _exact(prototypes)
    for part in slices(vectors.device, rows=len(vectors), columns=len(prototypes)):
        logits = functional.linear(vectors, prototypes[part].to(vectors.dtype)).to(exact)
        wanted = targets[:, part] if rows is None else targets[rows, part]
        yield logits, wanted.to(exact), part


def _exact(prototypes: Tensor) -> torch.dtype:
    return torch.promote_types(prototypes.dtype, torch.float32)
