"""How evenly things are spread over groups, off the groups' sizes."""

import numpy as np
from jaxtyping import Int64


def gini(sizes: Int64[np.ndarray, " group"]) -> float:
    """Return the Gini coefficient: 0 if all groups are equal, towards 1 if one holds everything."""
    ordered, count = np.sort(sizes).astype(np.float64), len(sizes)
    ranks = 2 * np.arange(1, count + 1) - count - 1
    return float((ranks * ordered).sum() / max(count * ordered.sum(), 1))


def entropy(sizes: Int64[np.ndarray, " group"]) -> float:
    """Return the entropy as a share of the largest possible: 1 if all groups are equal, 0 if one holds everything."""
    shares = sizes[sizes > 0] / max(sizes.sum(), 1)
    return float(-(shares * np.log(shares)).sum() / np.log(len(sizes))) if len(sizes) > 1 else 1.0
