from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.dense.embedding import unit
from dinokit.evaluation import base, retrieval
from dinokit.models.pixels import RawPixels
from dinokit.models.vit import VisionTransformer

MakeVit = Callable[..., VisionTransformer]
MakeFolder = Callable[..., Path]


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


def test_an_interval_stands_beside_both_numbers(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    data = str(make_folder(*(f"{label}/{i}.png" for label in "abc" for i in range(4)), tinted=False))
    numbers, details = retrieval.run(make_vit(), retrieval.Config(data=data), None)
    ends = details["intervals"]
    assert isinstance(ends, dict)
    assert all(ends[name][0] < numbers[name] < ends[name][1] for name in ("mAP", "R@1"))


def test_chunks_do_not_change_the_result(
    make_vit: MakeVit, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = retrieval.Config(data=str(make_folder(*(f"{label}/{i}.png" for label in "abc" for i in range(4)))))
    whole = base.measure("retrieval", make_vit(), config)
    monkeypatch.setattr(base, "CHUNK", 13)  # one query at a time
    assert base.measure("retrieval", make_vit(), config) == pytest.approx(whole)


def test_equal_features_are_one_threshold() -> None:
    same = torch.ones(18, 4)
    for labels in ([0] * 6 + [1] * 6 + [2] * 6, [0, 1, 2] * 6):  # another order of the same images
        precision, _ = retrieval.search(task(labels, same))
        assert precision.tolist() == pytest.approx([5 / 17] * 18)


@pytest.mark.parametrize("chunk", [1 << 24, 19])
def test_of_equal_images_the_first_answers(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "CHUNK", chunk)
    vectors = torch.randn(1, 47, generator=torch.Generator().manual_seed(0)).expand(9, -1)
    _, first = retrieval.search(task([0] * 3 + [1] * 3 + [2] * 3, vectors))
    assert first.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.slow
def test_domains_search_each_other_in_both_directions() -> None:
    config = retrieval.Config(data="demo:emoji")
    result = base.measure("retrieval", RawPixels(size=8), config)
    assert result["queries"] == 2 * 1911
    directions = [result["mAP/noto-twemoji"], result["mAP/twemoji-noto"]]
    assert result["mAP"] == pytest.approx(sum(directions) / 2)
    assert result["mAP"] > 10  # chance is 0.4


def test_data_without_pairs_is_the_users_error(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    with pytest.raises(UserError, match="pairs"):
        base.measure("retrieval", make_vit(), retrieval.Config(data=str(make_folder("a/0.png", "b/0.png"))))
