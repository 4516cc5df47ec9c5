from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.dense.embedding import extract
from dinokit.evaluation import base, knn
from dinokit.models.pixels import RawPixels
from dinokit.models.vit import VisionTransformer
from dinokit.sources.source import open_source

MakeVit = Callable[..., VisionTransformer]
MakeFolder = Callable[..., Path]

SPLIT = tuple(f"{split}/{label}/{i}.png" for split in ("train", "test") for label in "abc" for i in range(6))


def naive(backbone: VisionTransformer, data: str, k: int, temperature: float) -> float:
    """k-NN as the papers say it, one image and one vote at a time."""
    gallery = extract(backbone, open_source(data, split="train"))
    queries = extract(backbone, open_source(data, split="test"))
    assert gallery.labels is not None
    assert queries.labels is not None
    right = 0
    for feature, label in zip(queries.cls.astype(float), queries.labels, strict=True):
        cosines = [feature @ g / numpy.linalg.norm(feature) / numpy.linalg.norm(g) for g in gallery.cls.astype(float)]
        scores = dict.fromkeys(range(3), 0.0)
        for neighbour in numpy.argsort(cosines)[::-1][:k]:
            scores[int(gallery.labels[neighbour])] += numpy.exp(cosines[neighbour] / temperature)
        right += max(scores, key=lambda c: scores[c]) == label
    return 100 * right / len(queries.keys)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_equals_a_naive_loop(make_vit: MakeVit, make_folder: MakeFolder, seed: int) -> None:
    data = str(make_folder(*SPLIT, tinted=False))  # hard: an accuracy of 100 % would hide a wrong vote
    backbone = make_vit(seed=seed)
    result = base.measure("knn", backbone, knn.Config(data=data, k=(1, 3, 7, 18)))
    for k in (1, 3, 7, 18):
        assert result[f"top1@{k}"] == pytest.approx(naive(backbone, data, k, 0.07))
    assert (result["queries"], result["gallery"]) == (18, 18)


def test_a_near_vote_outweighs_two_far_ones() -> None:
    similarity = torch.tensor([[0.9, 0.8, 0.8]])
    labels = torch.tensor([[1, 0, 0]])
    # exp(0.1 / 0.07) = 4.2 > 2; at temperature 1 it is 1.1 < 2
    assert knn.vote(similarity, labels, [3], classes=2, temperature=0.07)[3].argmax() == 1
    assert knn.vote(similarity, labels, [3], classes=2, temperature=1.0)[3].argmax() == 0
    assert knn.vote(similarity, labels, [1, 3], classes=2, temperature=1.0)[1].tolist() == [[0.0, 1.0]]


def test_a_small_temperature_does_not_overflow() -> None:
    votes = knn.vote(torch.tensor([[0.9, 0.2]]), torch.tensor([[1, 0]]), [2], classes=2, temperature=1e-3)
    assert votes[2].isfinite().all()


def test_k_above_the_gallery_takes_all_of_it(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    result = base.measure("knn", make_vit(), knn.Config(data=str(make_folder(*SPLIT)), k=(18, 500)))
    assert result["top1@500"] == result["top1@18"]


def test_chunks_do_not_change_the_result(
    make_vit: MakeVit, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = knn.Config(data=str(make_folder(*SPLIT)), k=(3, 5))
    whole = base.measure("knn", make_vit(), config)
    monkeypatch.setattr(base, "CHUNK", 40)  # 2 queries at a time
    assert base.measure("knn", make_vit(), config) == whole


def test_a_folder_without_splits_leaves_one_out(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    result = base.measure("knn", make_vit(), knn.Config(data=str(make_folder("a/0.png", "a/1.png", "b/0.png")), k=(1,)))
    # b has no other image: only finding itself could be right
    assert result == {"top1@1": pytest.approx(200 / 3), "top5@1": pytest.approx(200 / 3), "queries": 3, "gallery": 2}


def test_one_image_of_each_class_has_no_right_answer(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    data = str(make_folder("a/0.png", "b/0.png", "c/0.png"))
    with pytest.raises(UserError, match="two or more images of a class .* got one of each"):
        base.measure("knn", make_vit(), knn.Config(data=data, k=(1,)))


def test_equal_images_keep_their_order_whatever_the_chunk(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(*(f"{label}/{i}.png" for label in "abc" for i in range(6)), tinted=False)
    for path in root.rglob("*.png"):
        path.write_bytes((root / "a" / "0.png").read_bytes())
    found = []
    for chunk in (1 << 24, 40, 19):
        monkeypatch.setattr(base, "CHUNK", chunk)
        found.append(base.measure("knn", RawPixels(size=16), knn.Config(data=str(root), k=(1, 7))))
    # the first image answers all: 5 of class a are right; of 7 neighbours 5 or 6 are of a
    assert found[0] == found[1] == found[2]
    assert found[0]["top1@1"] == found[0]["top1@7"] == pytest.approx(100 * 6 / 18)


def test_the_same_split_on_both_sides_leaves_one_out(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    data = str(make_folder(*SPLIT))
    result = base.measure("knn", make_vit(), knn.Config(data=data, gallery="train", query="train", k=(1,)))
    assert (result["queries"], result["gallery"]) == (18, 17)


def test_top5_counts_only_classes_with_a_vote(make_folder: MakeFolder) -> None:
    data = str(make_folder(*(f"{label}/0.png" for label in "abcde"), "e/1.png", tinted=False))
    result = base.measure("knn", RawPixels(size=16), knn.Config(data=data, k=(1,)))
    assert result["top5@1"] == result["top1@1"] < 100


def test_an_untrained_layer_scale_is_no_excuse(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    # cosines differ from 1 in the tenth digit; colours alone tell these classes apart
    backbone = VisionTransformer(replace(make_vit().config, layer_scale=1e-5), seed=0)
    backbone.pixels = make_vit().pixels
    assert base.measure("knn", backbone, knn.Config(data=str(make_folder(*SPLIT)), k=(3,)))["top1@3"] > 80


def test_data_without_labels_says_what_to_do(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    with pytest.raises(UserError, match="DATA/CLASS/image.jpg"):
        base.measure("knn", make_vit(), knn.Config(data=str(make_folder("0.png", "1.png"))))


@pytest.mark.parametrize("wrong", [{"k": ()}, {"k": (0, 5)}, {"temperature": 0.0}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError):
        knn.Config(data="x", **wrong)  # type: ignore[arg-type]
