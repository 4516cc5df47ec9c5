"""Several sources: shares as their weights say, whole batches of one source, and an order that is arithmetic."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.sources.mixture import read_mixture
from dinokit.sources.sampler import POSITIONS, STEPS, Mix, MixedOrder
from dinokit.sources.source import Source, labelled, open_source, splits
from dinokit.views import multicrop
from dinokit.views.loader import Batch, Loader

CONFIG = multicrop.Config(global_size=16, local_size=8, local_count=1)

Shares = list[tuple[int, float, float]]

shares = st.lists(
    st.tuples(st.integers(7, 40), st.sampled_from([0.01, 1.0, 2.5]), st.sampled_from([0.0, 0.1, 0.25])),
    min_size=3,
    max_size=3,
)


def _mix(shares: Shares) -> Mix:
    lengths, weights, alone = zip(*shares)
    return Mix(lengths, weights, alone)


def _parts(mix: Mix, indices: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(mix.lengths), indices, side="right")


@settings(deadline=None, max_examples=25)
@given(shares=shares, batch=st.integers(1, 7), start=st.integers(0, 30_000), count=st.integers(0, 60))
def test_a_part_is_the_part_of_the_whole(shares: Shares, batch: int, start: int, count: int) -> None:
    """Also across the ends of the blocks of positions and of steps, and whatever was asked before."""
    mix, start = _mix(shares), start + 9_980
    whole = MixedOrder(mix, seed=3, batch=batch).indices(start - start % batch, count + 3 * batch)
    ours = MixedOrder(mix, seed=3, batch=batch)
    ours.indices(50_000, 3)
    assert np.array_equal(ours.indices(start, count), whole[start % batch :][:count])


@settings(deadline=None, max_examples=4, phases=(Phase.generate,))
@given(shares=shares, batch=st.integers(1, 4))
def test_every_source_goes_through_all_its_images_again_and_again(shares: Shares, batch: int) -> None:
    mix = _mix(shares)
    batch *= 10
    sequence = MixedOrder(mix, seed=1, batch=batch).indices(0, 1100 * batch)  # beyond one block of both kinds
    start = 0
    for part, length in enumerate(mix.lengths):
        own = sequence[_parts(mix, sequence) == part] - start
        passes = own[: len(own) // length * length].reshape(-1, length)
        assert (np.sort(passes, axis=1) == np.arange(length)).all()
        start += length


def test_shares_are_those_of_the_weights() -> None:
    mix = Mix((50, 7, 30), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    sequence = MixedOrder(mix, seed=0, batch=80).indices(0, 2 * POSITIONS)
    assert (np.bincount(_parts(mix, sequence)) / len(sequence)).tolist() == [0.5, 0.25, 0.25]
    batches = _parts(mix, sequence).reshape(-1, 8)
    assert 1.2 < (batches == 0).sum(axis=1).std() < 1.6  # binomial: sqrt(8 / 4)


def test_whole_batches_of_one_source_come_as_often_as_said() -> None:
    """DINOv3's rule: 10 % of the batches from ImageNet alone, the others without it."""
    mix = Mix((40, 60, 20), (0.0, 3.0, 1.0), (0.1, 0.0, 0.0))
    parts = _parts(mix, MixedOrder(mix, seed=5, batch=16).indices(0, 16 * 2 * STEPS)).reshape(-1, 16)
    alone = (parts == 0).all(axis=1)
    assert alone.sum() == 0.1 * 2 * STEPS
    assert not (parts[~alone] == 0).any()
    assert abs((parts[~alone] == 1).mean() - 0.75) < 0.01
    gaps = np.diff(np.flatnonzero(alone))
    assert gaps.min() == 1  # at random places, not every tenth
    assert gaps.max() > 20


def test_seeds_and_passes_differ() -> None:
    mix = Mix((50, 50), (1.0, 1.0), (0.2, 0.0))
    first, second = (MixedOrder(mix, seed=seed, batch=50).indices(0, 20_000) for seed in (0, 1))
    assert (first != second).mean() > 0.9
    assert not np.array_equal(first[:10_000], first[10_000:])


@pytest.mark.parametrize(
    ("weights", "alone", "message"),
    [
        ((1.0, -1.0), (0.0, 0.0), "must be >= 0"),
        ((1.0, 1.0), (0.6, 0.6), "at most 1"),
        ((0.0, 0.0), (0.5, 0.0), "all weights are 0"),
        ((1.0, 1e-6), (0.0, 0.0), "raise 1e-06"),
        ((1.0, 1.0), (1e-5, 0.0), "raise 1e-05"),
    ],
)
def test_impossible_shares_are_refused(weights: tuple[float, ...], alone: tuple[float, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mix((3, 3), weights, alone)


def test_only_homogeneous_batches_are_possible() -> None:
    mix = Mix((3, 4), (0.0, 0.0), (0.5, 0.5))
    parts = _parts(mix, MixedOrder(mix, seed=0, batch=5).indices(0, 5000)).reshape(-1, 5)
    assert (parts == parts[:, :1]).all()


def _folder(root: Path, value: int, count: int, classes: tuple[str, ...] = ("",)) -> None:
    for number in range(count):
        path = root / classes[number % len(classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (value, number, 0)).save(path)


def _mixture(root: Path) -> Source:
    _folder(root / "web", 100, 9)
    _folder(root / "photos", 200, 6, ("dog", "cat"))
    (root / "photos" / "cat" / "broken.png").write_bytes(b"x")
    lines = "- {source: web, weight: 3}\n- {source: photos, weight: 1, homogeneous: 0.3}\n"
    (root / "mix.yaml").write_text(f"sources:\n{lines}")
    return open_source(str(root / "mix.yaml"))


def _loader(source: Source, **options: int) -> Loader:
    settings = {"patch_size": 8, "batch": 4, "seed": 7} | options
    return Loader(source, CONFIG, None, Pixels(), **settings)  # type: ignore[arg-type]


def _seen(batches: list[Batch]) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def test_a_mixture_is_one_source(tmp_path: Path) -> None:
    source = pickle.loads(pickle.dumps(_mixture(tmp_path)))
    assert len(source) == 16
    assert source.key(0) == f"{tmp_path}/web/0.png"
    assert source.key(-1) == f"{tmp_path}/photos/dog/4.png"
    assert [int(source.read(index)[0, 0, 0]) for index in (0, 8, 10, 15)] == [100, 100, 200, 200]
    assert source.classes == ("cat", "dog")
    assert source.labels is not None
    assert source.labels.tolist() == [-1] * 9 + [0] * 4 + [1] * 3
    known = labelled(source)
    assert (len(known), known.key(0)) == (7, source.key(9))


def test_another_weight_or_image_is_another_fingerprint(tmp_path: Path) -> None:
    before, path = _mixture(tmp_path).fingerprint, tmp_path / "mix.yaml"
    assert open_source(str(path)).fingerprint == before
    text = path.read_text()
    path.write_text(text.replace("weight: 3", "weight: 2"))
    other = open_source(str(path)).fingerprint
    path.write_text(text)
    (tmp_path / "web" / "0.png").rename(tmp_path / "web" / "00.png")
    assert len({before, other, open_source(str(path)).fingerprint}) == 3


def test_workers_ranks_and_interruptions_change_nothing(tmp_path: Path) -> None:
    source = _mixture(tmp_path)
    whole = list(_loader(source, batch=8).batches(0, 12))
    assert _seen(list(_loader(source, batch=8, workers=2).batches(5, 12))) == _seen(whole[5:])
    ranks = [list(_loader(source, world=2, rank=rank).batches(0, 12)) for rank in (0, 1)]
    assert [one + two for one, two in zip(*map(_seen, ranks))] == _seen(whole)
    micro = list(_loader(source, accumulate=2).batches(0, 12))
    assert [one + two for one, two in zip(_seen(micro[::2]), _seen(micro[1::2]))] == _seen(whole)
    crops = torch.cat([rank[3].views.global_crops for rank in ranks], dim=1)
    torch.testing.assert_close(crops, whole[3].views.global_crops, atol=1e-5, rtol=0)


def test_whole_batches_stay_whole_when_images_are_bad(tmp_path: Path) -> None:
    source = _mixture(tmp_path)
    assert source.mix is not None
    drawn = MixedOrder(source.mix, seed=7, batch=8).indices(0, 8 * 60).reshape(60, 8)
    alone = np.flatnonzero((drawn >= 9).all(axis=1)).tolist()
    batches = [_loader(source, batch=8).build(step) for step in alone]
    assert 8 <= len(alone) <= 30  # 18 of 60 on average
    assert any(batch.bad for batch in batches)
    assert all(index >= 9 for batch in batches for index in batch.indices.tolist())


def test_a_mixture_has_the_splits_that_all_have(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for split in ("train", "test", "val"):
            if (name, split) != ("b", "val"):
                _folder(tmp_path / name / split, 1, 2, ("x", "y"))
    (tmp_path / "mix.yaml").write_text("sources: [{source: a, weight: 1}, {source: b, weight: 1}]")
    spec = str(tmp_path / "mix.yaml")
    assert splits(spec) == ("train", "test")
    assert (len(open_source(spec)), open_source(spec, split="test").key(0)) == (4, f"{tmp_path}/a/x/0.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: []", "has no list of sources"),
        ("sources: [photos]", "line 1 of .* is 'photos', expected"),
        ("sources: [{source: photos}]", "line 1 of .* expected a number from 0"),
        ("sources: [{source: photos, weight: .nan}]", "line 1 of .* expected a number from 0"),
        ("sources: [{source: photos, weight: .inf}]", "line 1 of .* expected a number from 0"),
        (
            f"sources: [{{source: photos, weight: {10**400}}}]",
            "line 1 of .* expected a number from 0",
        ),
        (
            "sources: [{source: photos, weight: 1, homogeneous: .nan}]",
            "line 1 of .* expected a number from 0",
        ),
        ("sources: [{source: '', weight: 1}]", "expected {source: photos"),
        ("sources: [{source: photos, wieght: 1}]", "unknown field .* 'wieght'; did you mean 'weight'"),
        ("sources: [{source: other.yaml, weight: 1}]", "is a mixture itself"),
        ("sources: [{source: nothing, weight: 1}]", "no folder .*nothing"),
        ("sources:\n- {source: a, weight: 1}\n- {source: photos, weight: -1}", "line 3 of .*mix.yaml: weight is -1"),
        ("sources: [{source: a, weight: 1, homogeneous: 2}, {source: a, weight: 1}]", r"mix.yaml: .* at most 1 in all"),
        ("sources: []\nsources: [x]", "line 2 of .* is 'x'"),
        ("<<: {sources: [x]}", "a source of .* is 'x'"),
        ("sources: [", "is no YAML"),
        ("[" * 1200, "is no YAML"),
        ("sources: [{source: a, weight: " + "9" * 5000 + "}]", "is no YAML"),
        ("sources: [{source: 2001-99-99, weight: 1}]", "is no YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nsources: [[*b, *b]]", "line 3 of"),
    ],
)
def test_mistakes_in_a_mixture_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    _folder(tmp_path / "a", 0, 1)
    (tmp_path / "mix.yaml").write_text(text)
    _folder(tmp_path / "a", 0, 1)
    with pytest.raises(UserError, match=message) as caught:
        open_source(str(tmp_path / "mix.yaml"))
    assert "\n" not in str(caught.value)


def test_the_example_of_the_docs_is_a_mixture(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tasks" / "train.md").read_text()
    (tmp_path / "mix.yaml").write_text(page.split("# mix.yaml", 1)[1].split("\n", 1)[1].split("```")[0])
    parts = read_mixture(str(tmp_path / "mix.yaml"))
    names = [part.source.removeprefix(f"{tmp_path}/") for part in parts]
    assert names == ["labelled", "photos", "table.csv"]
    assert [part.homogeneous for part in parts] == [0, 0, 0.1]
