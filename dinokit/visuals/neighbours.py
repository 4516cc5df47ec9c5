"""Which images look alike to a backbone: the nearest by the cosine of their CLS features."""

from jaxtyping import Float, Int64
from torch import Tensor

from dinokit.dense.embedding import unit


def nearest(
    queries: Float[Tensor, "query dim"],
    gallery: Float[Tensor, "gallery dim"],
    *,
    count: int,
    exclude: Int64[Tensor, " query"] | None = None,
) -> Int64[Tensor, "query neighbour"]:
    """Return the rows of the gallery most similar to each query, most similar first.

    Args:
        count: neighbours wanted; a smaller gallery gives all it has.
        exclude: a row of the gallery per query that must not answer (the query itself); -1 excludes nothing.
    """
    similarity = unit(queries) @ unit(gallery).T  # [query, gallery]
    available = len(gallery)
    if exclude is not None:
        asked = (exclude >= 0).nonzero()[:, 0]
        similarity[asked, exclude[asked]] = -float("inf")
        available -= int(len(asked) > 0)
    return similarity.sort(dim=1, descending=True, stable=True).indices[:, : min(count, available)]
