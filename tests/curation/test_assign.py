import numpy as np
import pytest
import torch

from dinokit.curation import assign as module
from dinokit.curation import integers
from dinokit.curation.assign import Centres, assign, squared


@pytest.fixture(autouse=True, params=["float32", "integers"])
def _products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of product, on any machine and at any size: PyTorch multiplies bytes everywhere, if slowly."""
    monkeypatch.setattr(integers, "are_fast", lambda _: request.param == "integers")
    monkeypatch.setattr(module, "FROM", 0)


def _naive(vectors: torch.Tensor, centres: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    apart = (vectors.double()[:, None] - centres.double()).square().sum(dim=2)
    return apart.argmin(dim=1), apart.min(dim=1).values


def test_the_nearest_centre_is_that_of_all_distances() -> None:
    draw = torch.Generator().manual_seed(0)
    for count in (1, 31, 32, 33, 100):  # around a group
        vectors, centres = torch.randn(70, 5, generator=draw), 2 * torch.randn(count, 5, generator=draw)
        found = assign(vectors, Centres(centres))
        wanted, apart = _naive(vectors, centres)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(squared(vectors, centres, found), apart)


def test_a_lead_smaller_than_the_rounding_of_a_product_is_seen() -> None:
    # the same centre 1,000 away from the origin, and one that is 1e-5 nearer: a float32 score is exact to 0.06
    vectors = torch.tensor([[1000.0, 0.0], [1000.0, 0.5]])
    centres = torch.tensor([[1000.0, 0.25], [1000.0, 0.25 - 1e-5], [1000.0, 0.25 + 1e-5]])
    found = assign(vectors, Centres(centres))
    assert found.tolist() == [1, 2]


def test_of_equal_centres_the_first_is_taken_in_any_company() -> None:
    draw = torch.Generator().manual_seed(0)
    one = torch.randn(40, 8, generator=draw)
    centres = torch.cat([one, one, one])
    vectors = torch.randn(50, 8, generator=draw)
    together = assign(vectors, Centres(centres))
    assert together.max() < 40
    alone = torch.cat([assign(row[None], Centres(centres)) for row in vectors])
    torch.testing.assert_close(together, alone)


def test_pieces_of_nearly_equal_centres_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    centres = torch.cat([1000 + 1e-3 * torch.randn(70, 3, generator=draw)] * 2)  # all within the margin of a product
    vectors = 1000 + 1e-3 * torch.randn(20, 3, generator=draw)
    whole = assign(vectors, Centres(centres))
    torch.testing.assert_close(whole, _naive(vectors, centres)[0])
    monkeypatch.setattr(module, "HITS", 3)
    monkeypatch.setattr(module, "PAIRS", 7)
    torch.testing.assert_close(assign(vectors, Centres(centres)), whole, rtol=0, atol=0)


def test_blocks_of_rows_change_nothing() -> None:
    rng = np.random.default_rng(0)
    vectors, centres = rng.normal(size=(100, 4)).astype(np.float16), torch.randn(50, 4)
    whole = assign(vectors, Centres(centres))
    ready = Centres(centres)
    ready.rows = 7
    torch.testing.assert_close(assign(vectors, ready), whole, rtol=0, atol=0)


def test_tiles_of_centres_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    vectors, centres = torch.randn(30, 6, generator=draw), torch.randn(150, 6, generator=draw)
    monkeypatch.setattr(module, "TILE", 64)
    torch.testing.assert_close(assign(vectors, Centres(centres)), _naive(vectors, centres)[0])


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1.0, 1e4])
def test_centres_of_any_size_have_their_nearest(spread: float) -> None:
    # one coordinate is a thousand times the others, and all lie far from the origin
    draw = torch.Generator().manual_seed(0)
    shape = torch.tensor([1000.0, 1, 1, 1, 1, 1])
    centres = 5 + spread * shape * torch.randn(80, 6, generator=draw)
    vectors = 5 + shape * torch.randn(40, 6, generator=draw)
    torch.testing.assert_close(assign(vectors, Centres(centres)), _naive(vectors, centres)[0])


def test_the_margin_of_whole_numbers_bounds_their_error() -> None:
    draw = torch.Generator().manual_seed(0)
    vectors, centres = (torch.nn.functional.normalize(torch.randn(n, 24, generator=draw)) for n in (200, 64))
    rounded = integers.Integers(centres, fill=0)
    rows, unit, margin = rounded.prepare(vectors)
    out = torch.empty(200, 64, dtype=torch.int32)
    rounded.multiply(rows, slice(0, 64), out)
    # of any two products of a row: their difference against the true one
    true = vectors.double() @ centres.double().T
    lead = (out.double() - out[:, :1]) * unit - (true - true[:, :1])
    assert (lead.abs() <= margin).all()
    assert lead.abs().max() > 0.02 * float(margin.max())  # and is not far above it
