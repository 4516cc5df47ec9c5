"""How much boxes have in common, and whether one that was found is right.

A box is left, top, right, bottom in pixels, where edges lie: the whole of an image is 0, 0, width, height.

CorLoc, correct localisation, is the share of images of which a single box is shown and overlaps one that a person drew:
their intersection is at least half of their union. Source: Deselaers et al. 2010 (Localizing objects while learning
their appearance), as in LOST (arXiv:2109.14279) and TokenCut (arXiv:2202.11539).
"""

import numpy
from jaxtyping import Bool, Float

ENOUGH = 0.5  # of the union

Boxes = Float[numpy.ndarray, "box 4"]


def overlaps(first: Boxes, second: Float[numpy.ndarray, "other 4"]) -> Float[numpy.ndarray, "box other"]:
    """Return the intersection over union of each two boxes; 0 for two without any area."""
    corner, end = numpy.maximum(first[:, None, :2], second[:, :2]), numpy.minimum(first[:, None, 2:], second[:, 2:])
    shared = (end - corner).clip(min=0).prod(axis=2)  # [box, other]
    areas = (first[:, 2:] - first[:, :2]).prod(axis=1), (second[:, 2:] - second[:, :2]).prod(axis=1)
    union = areas[0][:, None] + areas[1] - shared
    found: Float[numpy.ndarray, "box other"] = numpy.divide(
        shared, union, out=numpy.zeros(shared.shape), where=union > 0
    )
    return found


def located(found: Boxes, truth: Float[numpy.ndarray, "object 4"]) -> Bool[numpy.ndarray, " box"]:
    """Tell of each box whether it is where any of the objects is."""
    right: Bool[numpy.ndarray, " box"] = numpy.any(overlaps(found, truth) >= ENOUGH, axis=1)
    return right
