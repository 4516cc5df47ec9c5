"""A picture that both sides have is found, and nothing else."""

import numpy as np
import pytest

from dinokit.features.cache import Cache
from dinokit.features.extraction import Embeddings
from dinokit.features.leaks import Leaks, leaks


def embeddings(name: str, rows: list[list[float]], digests: str) -> Embeddings:
    """Images with given features and pixels."""
    kept, pixels = Cache(None), [16 * letter.encode() for letter in digests]
    kept.add(pixels, pixels, dict(zip(pixels, np.array(rows, dtype=np.float32), strict=True)))
    return Embeddings(
        rows=kept,
        indices=np.arange(len(rows)),
        keys=tuple(f"{name}{number}" for number in range(len(rows))),
        labels=None,
        classes=(),
        domains=None,
        digests=tuple(pixels),
        bad=(),
    )


TRAIN = embeddings("t", [[1, 0], [0, 1], [1, 0]], "aba")
TEST = embeddings("v", [[1, 0], [0.1, 1], [-1, 0.0]], "axy")


def test_equal_pixels_are_found_by_the_first_that_has_them() -> None:
    assert leaks(TEST, TRAIN) == Leaks(equal=(("v0", "t0"),), similar=(), above=None)
    assert leaks(TRAIN, TRAIN).equal == (("t2", "t0"),)  # the first is no copy


@pytest.mark.parametrize(("above", "found"), [(0.99, ["v1"]), (0.999, [])])
def test_similar_ones_count_above_what_is_stated(above: float, found: list[str]) -> None:
    shared = leaks(TEST, TRAIN, above=above)
    assert shared.equal == (("v0", "t0"),)  # once, as the equal one that it is
    assert [one for one, _, _ in shared.similar] == found
    assert all(other == "t1" and cosine == pytest.approx(1 / np.sqrt(1.01)) for _, other, cosine in shared.similar)


def test_a_line_names_pairs_and_the_file_all() -> None:
    shared = Leaks(equal=tuple((f"v{n}", f"t{n}") for n in range(5)), similar=(("v9", "t9", 0.99),), above=0.98)
    assert shared.line("val", "train") == (
        "leakage, images of val that are in train again, 6 (1 by a cosine above 0.98): v0 = t0, v1 = t1, v2 = t2, ...; "
        "--save FOLDER lists them"
    )
    assert shared.details()["leakage"] == {
        "equal": [[f"v{n}", f"t{n}"] for n in range(5)],
        "similar": [["v9", "t9", 0.99]],
    }
    assert Leaks((), (), None).details() == {}


def test_an_image_counts_once_in_whichever_part_its_picture_is() -> None:
    chooses = embeddings("c", [[1, 0.0], [0, 1]], "ax")
    shared = leaks(TEST, TRAIN, chooses, above=0.99)
    assert shared.equal == (("v0", "t0"), ("v1", "c1"))  # of equal ones the first, and equal before similar
    assert shared.similar == ()
