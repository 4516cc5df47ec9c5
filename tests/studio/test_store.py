"""Octets hold what a page multiplies: the order of cosines stays, and what is kept is bounded."""

import numpy
import pytest
import torch
from scipy.stats import spearmanr

from dinokit.core.messages import RunError
from dinokit.features.embedding import unit
from dinokit.studio import store


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_cosines_keep_their_order(spread: float) -> None:
    """Also where a few channels are far larger than all others, as in trained transformers."""
    features = noise(16, 16, 96) * (spread * noise(96, seed=1)).exp()
    exact = unit(features.flatten(0, 1))
    found = store.patches(store.octets(features, name="x"))
    for place in (0, 37, 255):
        cosines = found.cosines(found.at(*divmod(place, 16)))
        assert spearmanr(cosines, exact @ exact[place]).statistic >= 0.99


def test_a_page_reads_back_what_was_written() -> None:
    features = noise(3, 5, 8)
    data = store.octets(features, name="x")
    found = store.patches(data)
    assert (found.rows, found.columns, found.values.shape, len(data)) == (3, 5, (15, 8), 12 + 15 * 4 + 15 * 8)
    exact = unit(features.flatten(0, 1)).numpy()
    assert numpy.abs(found.values).max(axis=1).tolist() == [127] * 15  # the largest number of a patch takes all steps
    assert numpy.linalg.norm(found.at(1, 2)) == pytest.approx(1, abs=1e-6)
    # half a step, and what making it length 1 has changed
    numpy.testing.assert_allclose(found.at(1, 2), exact[7], atol=float(found.scales.max()) * 0.6)
    numpy.testing.assert_allclose(found.cosines(found.at(1, 2)), exact @ exact[7], atol=0.01)


def test_rows_are_made_length_1_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    features = noise(7, 5, 8)
    whole = store.octets(features, name="x")
    monkeypatch.setattr(store, "ROWS", 4)
    assert store.octets(features, name="x") == whole


def test_a_feature_of_zeros_is_like_nothing() -> None:
    found = store.patches(store.octets(torch.zeros(1, 2, 4), name="x"))
    assert found.cosines(numpy.ones(4, numpy.float32)).tolist() == [0, 0]


def test_what_is_not_finite_is_not_sent() -> None:
    with pytest.raises(RunError, match="mine gives features that are not finite; its weights are broken"):
        store.octets(torch.full((2, 2, 4), torch.nan), name="mine")


def test_a_head_is_drawn_over_its_largest_value() -> None:
    data = store.shares(torch.tensor([[[0.1, 0.2]], [[0.0, 0.0]]]))
    assert data == store.HEAD.pack(3, 1, 2) + bytes([128, 255] * 2 + [0, 0])


def test_the_mean_is_of_what_heads_attend() -> None:
    data = store.shares(torch.tensor([[[0.8, 0.0]], [[0.1, 0.1]]]))
    assert list(data[12:14]) == [255, round(255 * 0.05 / 0.45)]


def test_what_was_not_asked_for_longest_goes_first() -> None:
    kept = store.Kept(10)
    for name in "abc":
        kept.put(name, b"1234"[: 4 if name != "c" else 2])
    assert kept.get("a") == b"1234"
    kept.put("d", b"123")
    assert [kept.get(name) for name in "abcd"] == [b"1234", None, b"12", b"123"]
    kept.put("a", b"1")
    assert kept.bytes == 6
    kept.put("large", bytes(11))
    assert (kept.get("large"), kept.bytes) == (None, 0)
