"""The vital signs of a network that learns without labels, each a number of features or of logits of a few images.

Collapse is known by a few signs. All images get one vector: the effective rank is 1 and neighbours touch. All images
get one prototype: it is the choice of most, and the prototypes tell nothing of the image. The targets are uniform:
their entropy is the largest there is.

`places` judges how well patches tell places apart, the dense health. Long training makes patches worse while the CLS
token still gains (DINOv3, arXiv:2508.10104, section 4.1): similarity maps grow noisy, and what is near is no longer
alike. An anchor is chosen by `locality`; docs/log.md has the experiment that this rests on. Its second look is at the
probe's images in a mirror, paler: a place keeps its content there, but neither its position nor its light.
Sources: RankMe, Garrido et al. 2023 (arXiv:2210.02885) equation 1; the two collapses and entropy as their sign, DINO
(arXiv:2104.14294) section 5.3; patches of outlying norm, Darcet et al. 2023 (arXiv:2309.16588) section 2.1.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional

from dinokit.core import dist
from dinokit.core.order import evenly
from dinokit.health.probe import Look

NEIGHBOURS = 20  # of k-NN; fewer if there are fewer images
_TEMPERATURE = 0.07  # of the votes, as in evaluation/knn.py
_PATCHES = 4  # of each image for the rank: more of one image say little new, and the cost grows with their square
_OUTLIER = 3.0  # times the median length; registers paper: artefacts are about ten times as long as other patches
_TINY = 1e-12
_ROUNDING = 1e-4  # of the way to 1: less says nothing


@dataclass(frozen=True)
class Seen:
    """What student and teacher make of the probe, all ranks' images together, on the CPU."""

    student: Look
    teacher: Look
    labels: Int64[Tensor, " image"] | None


def ranks(seen: Seen) -> dict[str, float]:
    """Return the effective ranks of the teacher's CLS and patch features, also as shares of the largest possible."""
    cls = seen.teacher.features.cls
    patches = some_patches(seen.teacher.features.patches)
    found = {"rank_cls": effective_rank(cls), "rank_patches": effective_rank(patches)}
    return found | {
        "rank_cls_share": found["rank_cls"] / min(cls.shape),
        "rank_patches_share": found["rank_patches"] / min(patches.shape),
    }


def spread(seen: Seen) -> dict[str, float]:
    """Return how far apart images are: the median distance of a CLS to its nearest, on the sphere; 0 if all are one."""
    unit = _unit(seen.teacher.features.cls)
    apart = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    return {"nearest": float(apart.amin(dim=1).median())}


def agreement(seen: Seen) -> dict[str, float]:
    """Return the mean cosine between what student and teacher make of the same image."""
    return {"agreement": float((_unit(seen.student.features.cls) * _unit(seen.teacher.features.cls)).sum(1).mean())}


def lengths(seen: Seen) -> dict[str, float]:
    """Return the lengths of the teacher's tokens before the final norm, and the share of patches that stick out."""
    cls, patches = seen.teacher.cls_lengths, seen.teacher.patch_lengths
    values = {"cls_norm": cls.mean(), "cls_norm_max": cls.max()}
    values |= {"patch_norm": patches.mean(), "patch_norm_max": patches.max()}
    values["patch_outliers"] = (patches > _OUTLIER * patches.median()).float().mean()
    return {name: float(value) for name, value in values.items()}


def knn(seen: Seen) -> dict[str, float]:
    """Return the percentage of images whose neighbours, each left out of its own, vote for their class."""
    if seen.labels is None:
        return {}
    unit = _unit(seen.teacher.features.cls)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    near = similarity.topk(min(NEIGHBOURS, len(unit) - 1))
    classes = functional.one_hot(seen.labels[near.indices]).double()  # [image, neighbour, class]
    weights = ((near.values - near.values[:, :1]) / _TEMPERATURE).exp()
    votes = torch.einsum("in,inc->ic", weights, classes)
    return {"knn": 100 * float((votes.argmax(dim=1) == seen.labels).double().mean())}


MEASURES = (ranks, spread, agreement, lengths, knn)  # each: Seen -> name and value; rank 0 computes them


def some_patches(patches: Float32[Tensor, "image patch dim"]) -> Float32[Tensor, "sample dim"]:
    """Return a few evenly spaced patches of every image."""
    count = patches.shape[1]
    places = torch.from_numpy(evenly(_PATCHES, count))
    return patches[:, places].flatten(0, 1)


def effective_rank(features: Float[Tensor, "sample dim"]) -> float:
    """Return exp of the entropy of the normalised singular values (RankMe): from 1 to the smaller of the two sizes."""
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp_min(_TINY)
    return math.exp(float(torch.special.entr(shares).sum()))


def change(now: Float[Tensor, "image dim"], before: Float[Tensor, "image dim"]) -> float:
    """Return how far features have moved, relative to their size."""
    return float((now - before).norm() / before.norm().clamp_min(_TINY))


def places(look: Look, mirror: Look) -> dict[str, float]:
    """Return the signs of dense health, all of cosines between patches of one image.

    cls_patch: of patches with their CLS token; rises when patches forget what is local (DINOv3; not in our small runs).
    locality: how much more alike neighbours are than patches at least half the image apart, of what is possible.
    same_place: how much more alike one place is to itself in the mirror than to any place there, of what is possible.

    A map without three patches in a row has no distances to speak of: nothing is returned.
    """
    rows, columns = look.features.grid
    if max(rows, columns) < 3:
        return {}
    cls = functional.normalize(look.features.cls, dim=-1)
    patches = functional.normalize(look.features.patches, dim=-1)
    seen = functional.normalize(mirror.features.patches, dim=-1)
    seen = seen.reshape(len(seen), rows, columns, -1).flip(2).flatten(1, 2)  # every patch back at its place
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    apart = (place[:, None] - place).abs().amax(dim=-1)  # [patch, patch], by the larger of the two coordinates
    near, far = apart == 1, apart >= max(2, max(rows, columns) // 2)
    near_cosine, far_cosine, same, any_place = torch.zeros(4, dtype=torch.float64)
    for one, other in zip(patches, seen, strict=True):  # one image at a time: [patch, patch] of many would not fit
        cosines = one @ one.T
        near_cosine += cosines[near].double().mean()
        far_cosine += cosines[far].double().mean()
        across = one @ other.T
        same += across.diagonal().double().mean()
        any_place += across.double().mean()
    count = len(patches)
    return {
        "cls_patch": float((patches @ cls[..., None]).double().mean()),
        "locality": _beyond(near_cosine / count, far_cosine / count),
        "same_place": _beyond(same / count, any_place / count),
    }


def opinions(
    student: Float32[Tensor, "sample prototype"],
    teacher: Float32[Tensor, "sample prototype"],
    targets: Float32[Tensor, "sample prototype"],
) -> dict[str, float]:
    """Return what distributions over prototypes say: how sharp they are, how many prototypes take part, who agrees.

    Entropies are in nats; a share is of the largest: log K. `used`, `information` and the share of the marginal are
    relative to what so few samples could show at most, the smaller of K and their number. `information` is the entropy
    of the mean minus the mean entropy: what a prototype tells of the image, 0 for both kinds of collapse.

    Args:
        student: distributions of THIS rank's samples; all ranks must call together, with equally many.
        teacher: the same by the teacher's softmax alone, before any balancing.
        targets: what the student is asked to say.
    """
    prototypes = student.shape[1]
    mean = dist.all_reduce(teacher.sum(dim=0))
    rows = [
        _entropy(targets),
        _entropy(student),
        _entropy(teacher),
        teacher.argmax(1).float(),
        student.argmax(1).float(),
    ]
    target_entropy, student_entropy, own_entropy, choice, guess = dist.all_gather(torch.stack(rows, dim=1)).cpu().T
    samples = len(choice)
    marginal = float(_entropy(mean[None] / samples))
    counts = torch.unique(choice, return_counts=True)[1]
    most, visible = math.log(max(prototypes, 2)), math.log(max(min(prototypes, samples), 2))
    return {
        "target_entropy": float(target_entropy.mean()),
        "target_entropy_share": float(target_entropy.mean()) / most,
        "student_entropy": float(student_entropy.mean()),
        "student_entropy_share": float(student_entropy.mean()) / most,
        "marginal_entropy": marginal,
        "marginal_entropy_share": min(marginal / visible, 1.0),
        "information": (marginal - float(own_entropy.mean())) / visible,
        "used": len(counts) / min(prototypes, samples),
        "top": float(counts.max()) / samples,
        "agreement": float((choice == guess).float().mean()),
    }


def _entropy(rows: Float[Tensor, "sample prototype"]) -> Float[Tensor, " sample"]:
    entropy: Tensor = torch.special.entr(rows).sum(dim=1)
    return entropy


def _unit(features: Float[Tensor, "image dim"]) -> Float64[Tensor, "image dim"]:
    # float64: with LayerScale at its initial 1e-5 cosines differ from 1 in the tenth digit
    return functional.normalize(features.double(), dim=-1)


def _beyond(value: Float[Tensor, ""], base: Float[Tensor, ""]) -> float:
    """Return how far a cosine is above another, as a share of the way to 1."""
    return float((value - base) / (1 - base).clamp_min(_ROUNDING))
