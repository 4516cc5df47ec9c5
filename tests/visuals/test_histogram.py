from xml.etree import ElementTree

import numpy as np
import pytest

from dinokit.visuals.histogram import Sizes, doubling, histogram


def test_a_bar_stands_for_sizes_up_to_twice_the_last() -> None:
    sizes = np.array([0, 0, 1, 2, 3, 4, 7, 8, 1023, 1024])
    assert doubling(sizes, 12).tolist() == [2, 1, 2, 2, 1, 0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("empty", [0, 2])
def test_bars_are_as_high_as_they_count_and_tell_it(empty: int) -> None:
    before, after = np.array([1, 1, 1, 1, 5, 6]), np.array([1] * (4 - empty) + [0] * empty + [2, 2])
    svg = ElementTree.fromstring(
        histogram([Sizes("before", before), Sizes("after", after)], title="Sizes", what="them")
    )
    tall = {bar.findtext("title"): float(bar.attrib["height"]) for bar in svg.iter("rect")}
    names = {"before: 4 them of 1 images", "before: 2 them of 4 to 7 images", "after: 2 them of 2 to 3 images"}
    assert names < set(tall)
    assert tall["before: 4 them of 1 images"] == pytest.approx(2 * tall["after: 2 them of 2 to 3 images"], abs=0.2)
    assert ("after: 2 them of 0 images" in tall) == bool(empty)
    labels = [each.text for each in svg.iter("text")]
    assert ("0" in labels[-6:]) == bool(empty)  # no place for empty ones where there are none
