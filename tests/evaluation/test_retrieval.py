from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from dinokit.core.errors import UserError
from dinokit.dense.embedding import unit
from dinokit.evaluation import base, retrieval
from dinokit.models.pixels import RawPixels
from dinokit.models.vit import VisionTransformer

MakeVit = Callable[..., VisionTransformer]
MakeFolder = Callable[..., Path]


@pytest.mark.parametrize(
    ("relevant", "expected"),
    [
        ([1, 0, 0, 0], 1.0),
        ([0, 0, 1, 0], 1 / 3),  # one right answer: 1 / rank
        ([1, 0, 1, 0], (1 + 2 / 3) / 2),
        ([0, 1, 1, 1], (1 / 2 + 2 / 3 + 3 / 4) / 3),
        ([1, 1, 1, 1], 1.0),
    ],
)
def test_average_precision_by_hand(relevant: list[int], expected: float) -> None:
    assert retrieval.average_precision(torch.tensor([relevant]).bool()).item() == pytest.approx(expected)


def test_average_precision_agrees_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    relevant = torch.rand(20, 30, generator=generator) < 0.2
    relevant[:, 0] |= ~relevant.any(dim=1)
    ours = retrieval.average_precision(relevant)
    for row, value in zip(relevant, ours, strict=True):
        assert value.item() == pytest.approx(average_precision_score(row.numpy(), -torch.arange(30).numpy()), abs=1e-6)


def task(labels: list[int], vectors: Tensor) -> base.Task:
    rows, numbers = unit(vectors), torch.tensor(labels)
    return base.Task(rows, numbers, None, rows, numbers, None, leave_one_out=True)


def test_a_query_never_finds_itself() -> None:
    # in the plane: 0 and 1 degrees are a pair, 2 and 90 degrees are one
    angles = torch.deg2rad(torch.tensor([0.0, 1.0, 2.5, 90.0]))
    precision, first = retrieval.search(task([0, 0, 1, 1], torch.stack([angles.cos(), angles.sin()], dim=1)))
    assert precision.tolist() == pytest.approx([1, 1, 1 / 3, 1])
    assert first.tolist() == [1, 1, 0, 1]


def test_a_thing_with_a_single_picture_is_not_asked() -> None:
    precision, _ = retrieval.search(task([0, 0, 1], torch.eye(3)))
    assert len(precision) == 2


def test_chunks_do_not_change_the_result(
    make_vit: MakeVit, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = retrieval.Config(data=str(make_folder(*(f"{label}/{i}.png" for label in "abc" for i in range(4)))))
    whole = retrieval.run(make_vit(), config)
    monkeypatch.setattr(base, "CHUNK", 13)  # one query at a time
    assert retrieval.run(make_vit(), config) == pytest.approx(whole)


def test_domains_search_each_other_in_both_directions() -> None:
    config = retrieval.Config(data="demo:emoji")
    result = retrieval.run(RawPixels(size=8), config)
    assert result["queries"] == 2 * 1911
    directions = [result["mAP/noto-twemoji"], result["mAP/twemoji-noto"]]
    assert result["mAP"] == pytest.approx(sum(directions) / 2)
    assert result["mAP"] > 10  # chance is 0.4


def test_data_without_pairs_is_the_users_error(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    with pytest.raises(UserError, match="pairs"):
        retrieval.run(make_vit(), retrieval.Config(data=str(make_folder("a/0.png", "b/0.png"))))
