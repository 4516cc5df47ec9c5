"""Met: which exhibit of a museum does a photo show, if any? (arXiv:2202.01747, sections 3.3 and 4.1)

Descriptors are whitened by PCA on the training images. The nearest of them names the exhibit. Of each exhibit among the
K nearest the largest cosine m counts; the answer c is trusted by the softmax

    exp(T m_c) / (sum over exhibits among the K nearest of exp(T m) + number of all other exhibits)

of which the logarithm of the odds is computed, which orders alike and does not round to 1. K and T are those of the
best GAP on the validation images. GAP ranks the answers to all photos, also to those that show nothing of the museum;
GAP- leaves these out, and so does ACC, the share of right answers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.evaluation.knn import nearest
from dinokit.evaluation.sets.labelled import Task
from dinokit.features.extraction import Embeddings
from dinokit.features.whitening import Whitening
from dinokit.metrics.interval import percent
from dinokit.metrics.ranking import gap, gap_interval
from dinokit.sources.source import Source

KS = (1, 2, 3, 5, 7, 10, 15, 20, 50)
TEMPERATURES = (0.01, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 100.0, 500.0)
DIMS = 512  # that whitening keeps, where a descriptor has as many
STEP = 4096  # queries of which neighbours are written down at a time


@dataclass(frozen=True)
class Answers:
    """The exhibits nearest to some photos, the nearest first, and what the photos show."""

    similarity: Float64[Tensor, "query neighbour"]
    exhibits: Int64[Tensor, "query neighbour"]
    truth: Int64[Tensor, " query"]  # -1: nothing of the museum

    @property
    def answerable(self) -> Bool[numpy.ndarray, " query"]:
        """Which photos show an exhibit."""
        found: Bool[numpy.ndarray, " query"] = (self.truth >= 0).numpy()
        return found

    @property
    def right(self) -> Bool[numpy.ndarray, " query"]:
        """Which answers are right."""
        found: Bool[numpy.ndarray, " query"] = (self.exhibits[:, 0] == self.truth).numpy()
        return found

    def odds(self, k: int, temperature: float, *, exhibits: int) -> Float64[numpy.ndarray, " query"]:
        """Return how far each answer is trusted, as the logarithm of its odds."""
        similarity, named = self.similarity[:, :k], self.exhibits[:, :k]
        again = (named[:, :, None] == named[:, None, :]).tril(-1).any(dim=2)  # named by a nearer one [query, k]
        scores = (temperature * similarity).masked_fill(again, -torch.inf)
        unseen = (exhibits - (~again).sum(dim=1)).double().log()
        rivals = torch.logaddexp(scores[:, 1:].logsumexp(dim=1), unseen)  # -inf where there are none
        odds: Float64[numpy.ndarray, " query"] = (scores[:, 0] - rivals).numpy()
        return odds


def run(
    described: Callable[[Source], Embeddings],
    opened: Callable[[str], Source],
    *,
    dims: int | None,
    device: torch.device,
) -> tuple[dict[str, float], dict[str, object]]:
    """Answer every photo; return GAP, GAP-, ACC and the GAP of the validation images in percent, K and T.

    Args:
        described: a source as vectors.
        opened: a split as a source.
        dims: that whitening keeps; None: 512, or all where there are fewer.
        device: where neighbours are looked for.
    """
    train, val, test = (described(opened(split)) for split in ("train", "val", "test"))
    assert train.labels is not None
    vectors, exhibits = torch.from_numpy(train.vectors), len(numpy.unique(train.labels))
    whitening = Whitening.learnt(vectors, dims=dims or min(DIMS, vectors.shape[1]), centred=True)
    vectors = whitening(vectors)
    chosen, asked = (_answered(each, train, vectors, whitening, device) for each in (val, test))
    for photos, split in ((chosen, "val"), (asked, "test")):
        if not photos.answerable.any():
            raise UserError(f"no photo of {split} that can be read shows an exhibit; unpack all archives")
    tried = {
        (k, temperature): 100 * gap(chosen.odds(k, temperature, exhibits=exhibits), chosen.right, chosen.answerable)
        for k in KS
        for temperature in TEMPERATURES
    }
    k, temperature = max(tried, key=lambda pair: tried[pair])  # of equal ones the first
    odds, right, answerable = asked.odds(k, temperature, exhibits=exhibits), asked.right, asked.answerable
    every = numpy.ones(int(answerable.sum()), dtype=bool)
    scored = {"GAP": (odds, right, answerable), "GAP-": (odds[answerable], right[answerable], every)}
    numbers = {name: 100 * gap(*each) for name, each in scored.items()}
    numbers |= {"ACC": 100 * float(right[answerable].mean()), "val": tried[k, temperature]}
    numbers |= {"K": float(k), "T": float(temperature)}
    intervals = {name: [100 * end for end in gap_interval(*each)] for name, each in scored.items()}
    details = {
        "intervals": intervals | {"ACC": percent(right[answerable])},
        "tried": {f"K {k}, T {temperature:g}": value for (k, temperature), value in tried.items()},
    }
    return numbers | {"queries": float(len(right)), "gallery": float(len(vectors))}, details


def _answered(
    photos: Embeddings,
    train: Embeddings,
    vectors: Float[Tensor, "image dim"],
    whitening: Whitening,
    device: torch.device,
) -> Answers:
    """Find the training images nearest to some photos."""
    assert train.labels is not None
    labels = torch.from_numpy(train.labels)
    nothing = torch.full((len(photos.indices),), -1)
    truth = nothing if photos.labels is None else torch.from_numpy(photos.labels)
    search = Task(vectors, labels, None, whitening(torch.from_numpy(photos.vectors)), truth, None, leave_one_out=False)
    found = [
        (similarity, labels[others])
        for _, similarity, others in nearest(search, KS[-1], None, step=STEP, device=device)
    ]
    similarity, exhibits = (torch.cat(each) for each in zip(*found, strict=True))
    return Answers(similarity, exhibits, truth)
