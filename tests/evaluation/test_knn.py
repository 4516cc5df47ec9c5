import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.curation import neighbours
from dinokit.evaluation import base, knn, retrieval
from dinokit.evaluation.sets import labelled
from dinokit.features.embedding import unit
from dinokit.features.extraction import extract
from dinokit.metrics.precision import eleven_points
from dinokit.models.pixels import RawPixels
from dinokit.models.vit import VisionTransformer
from dinokit.sources.source import open_source
from dinokit.sources.table import members, undecided
from tests.sources.sets import build

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
    for feature, label in zip(queries.vectors.astype(float), queries.labels, strict=True):
        cosines = [
            feature @ g / numpy.linalg.norm(feature) / numpy.linalg.norm(g) for g in gallery.vectors.astype(float)
        ]
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
    monkeypatch.setattr(knn, "CHUNK", 40)  # 2 queries at a time
    assert base.measure("knn", make_vit(), config) == whole


def test_a_folder_without_splits_leaves_one_out(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    result = base.measure("knn", make_vit(), knn.Config(data=str(make_folder("a/0.png", "a/1.png", "b/0.png")), k=(1,)))
    # b has no other image: only finding itself could be right
    share = pytest.approx(200 / 3)
    assert result == {"top1@1": share, "top5@1": share, "best": share, "best_k": 1, "queries": 3, "gallery": 2}


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
        monkeypatch.setattr(knn, "CHUNK", chunk)
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


def features(rows: int, seed: int, *, separable: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, in three classes that may lie far apart."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    return torch.randn(rows, 8, generator=draw) + 20 * separable * torch.eye(8)[labels], labels


def asked(*, separable: bool = True, leave_one_out: bool = False, rows: int = 120) -> labelled.Task:
    """A task without images."""
    gallery, labels = features(rows, 0, separable=separable)
    queries, wanted = (gallery, labels) if leave_one_out else features(90, 1, separable=separable)
    return labelled.Task(gallery, labels, None, queries, wanted, None, leave_one_out)


def measured(task: labelled.Task, *ks: int) -> dict[str, float]:
    """The numbers of a task in which all images answer."""
    return knn._measured(task, list(ks), 0.07, torch.device("cpu"), None)[0]


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_separable_features_reach_all_and_noise_chance(*, leave_one_out: bool) -> None:
    assert measured(asked(leave_one_out=leave_one_out), 1, 20) == {
        "top1@1": 100, "top5@1": 100, "top1@20": 100, "top5@20": 100
    }  # fmt: skip
    # leave-one-out: 600 images at a third; three standard deviations are 5.8 points
    chance = measured(asked(separable=False, leave_one_out=True, rows=600), 5)["top1@5"]
    assert chance == pytest.approx(100 / 3, abs=5.8)


def test_all_k_at_once_are_those_of_one_each() -> None:
    task = asked(separable=False)
    together = measured(task, 1, 3, 10, 500)
    assert together == measured(task, 1) | measured(task, 3) | measured(task, 10) | measured(task, 500)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_neighbours_and_votes_are_those_of_a_naive_formula_whatever_the_tiles(
    monkeypatch: pytest.MonkeyPatch, *, leave_one_out: bool
) -> None:
    task = asked(separable=False, leave_one_out=leave_one_out)
    task.gallery[50:60] = task.gallery[7]  # equal ones: the lower row first
    one, other = (each.double().numpy() for each in (task.queries, task.gallery))
    for tile, block, step in ((4096, 2048, 500), (64, 7, 3)):
        monkeypatch.setattr(neighbours, "TILE", tile)
        monkeypatch.setattr(neighbours, "QUERIES", block)
        rows = 0
        for part, similarity, places in knn.nearest(task, 12, None, step=step, device=torch.device("cpu")):
            votes = knn.vote(similarity, task.gallery_labels[places], [12], classes=3, temperature=0.07)[12]
            for query, near, found, own in zip(range(part.start, part.stop), similarity, places, votes, strict=True):
                cosines = (other * one[query]).sum(axis=1)
                cosines /= numpy.sqrt((one[query] ** 2).sum() * (other**2).sum(axis=1))
                if leave_one_out:
                    cosines[query] = -numpy.inf
                order = numpy.lexsort((numpy.arange(len(other)), -cosines.round(14)))[:12]
                assert found.tolist() == order.tolist()
                assert near.tolist() == pytest.approx(cosines[order], abs=1e-15)
                expected = numpy.zeros(3)
                for place in order:
                    expected[task.gallery_labels[place]] += numpy.exp((cosines[place] - cosines[order[0]]) / 0.07)
                assert own.tolist() == pytest.approx(expected, rel=1e-13)
                rows += 1
        assert rows == len(task.queries)


def test_few_shots_are_the_mean_over_draws(make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path) -> None:
    data = str(make_folder(*SPLIT, tinted=False))
    result = base.measure("knn", make_vit(), knn.Config(data=data, k=(1, 5), shots=2.0, draws=3), tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "knn.json").read_text())
    each = [draw["top1@1"] for draw in kept["draws"]]
    assert len(set(each)) > 1
    assert (result["top1@1"], result["top1@1/std"]) == (pytest.approx(numpy.mean(each)), pytest.approx(numpy.std(each)))
    assert (result["queries"], result["gallery"]) == (18, 6)
    assert result["best"] == max(result["top1@1"], result["top1@5"]) == result[f"top1@{result['best_k']:.0f}"]
    whole = knn.Config(data=data, k=(1, 5), gallery="test", query="test")
    every = replace(whole, shots=6.0, draws=1)  # all of each class: leave-one-out still leaves itself out
    numbers, drawn = (base.measure("knn", make_vit(), config) for config in (whole, every))
    assert {name: drawn[name] for name in ("top1@1", "top5@5")} == {
        name: numbers[name] for name in ("top1@1", "top5@5")
    }


def test_images_with_several_classes_are_judged_by_mean_average_precision(
    make_vit: MakeVit, make_folder: MakeFolder
) -> None:
    root = make_folder(*SPLIT, tinted=False)
    names = ["cat", ["cat", "dog"], ["dog", "owl"], "owl", ["cat", "dog", "owl"]]
    rows = [{"path": path, "split": path.split("/")[0], "labels": names[n * n % 5]} for n, path in enumerate(SPLIT)]
    (root / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data, backbone = str(root / "table.jsonl"), make_vit()
    result = base.measure("knn", backbone, knn.Config(data=data, k=(2, 5)))
    left, right = (extract(backbone, open_source(data, split=split)) for split in ("train", "test"))
    truth = {row["path"]: [name in row["labels"] for name in ("cat", "dog", "owl")] for row in rows}
    cosines = unit(torch.from_numpy(right.vectors)) @ unit(torch.from_numpy(left.vectors)).T
    for k in (2, 5):
        scores = numpy.zeros((18, 3))
        for query in range(18):
            order = cosines[query].argsort(descending=True)[:5]
            weights = (cosines[query, order] / 0.07).softmax(0)  # over the most neighbours that are asked for
            for weight, place in zip(weights[:k].tolist(), order.tolist()):
                scores[query] += weight * numpy.array(truth[left.keys[place]])
        wanted = numpy.array([truth[key] for key in right.keys])
        mean = numpy.mean([eleven_points(wanted[:, c], scores[:, c]) for c in range(3)])
        assert result[f"mAP@{k}"] == pytest.approx(100 * mean)
    with pytest.raises(UserError, match="several classes.*only knn, logreg and linear"):
        base.measure("retrieval", backbone, retrieval.Config(data=data, split="train"))


def test_draws_without_shots_and_parts_of_images_are_refused() -> None:
    with pytest.raises(UserError, match="give shots"):
        knn.Config(data="x", draws=3)
    with pytest.raises(UserError, match="whole number"):
        knn.Config(data="x", shots=2.5)


def test_an_interval_stands_beside_every_accuracy(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    names = tuple(f"{split}/{kind}/{index}.png" for split in ("train", "val") for kind in "abc" for index in range(4))
    config = knn.Config(data=str(make_folder(*names, tinted=False)), k=(1, 3), shots=2.0, draws=3)
    numbers, details = knn.run(make_vit(), config, None)
    ends = details["intervals"]
    assert isinstance(ends, dict)
    assert ends.keys() == {"top1@1", "top5@1", "top1@3", "top5@3", "best"}
    assert all(ends[name][0] <= numbers[name] <= ends[name][1] for name in ends)
    assert ends["best"] == ends[f"top1@{numbers['best_k']:g}"]
    assert ends["top1@1"][0] < numbers["top1@1"] < ends["top1@1"][1]


def test_the_set_says_that_classes_count_the_same(make_vit: MakeVit, tmp_path: Path) -> None:
    data = f"flowers102:{build('flowers102', tmp_path)}"
    config = knn.Config(data=data, k=(1, 3))
    numbers = base.measure("knn", make_vit(), config)
    assert [name for name in numbers if "@" in name] == ["per-class@1", "per-class@3", "top5@1", "top5@3"]
    assert numbers["best"] == max(numbers["per-class@1"], numbers["per-class@3"])
    assert numbers["queries"] == 4  # its test images, not val
    assert "top1@1" in base.measure("knn", make_vit(), replace(config, metric="top1"))


def test_per_class_is_the_mean_over_the_classes(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    files = (*SPLIT, *(f"test/a/{index}.png" for index in range(6, 12)))  # of one class more
    root = make_folder(*files, tinted=False)
    config, shares = knn.Config(data=str(root), k=(3,), metric="per-class"), []
    numbers, details = knn.run(make_vit(), config, None)
    for kind in "abc":
        shutil.copytree(root / "train", root.with_name(kind) / "train")
        shutil.copytree(root / "test" / kind, root.with_name(kind) / "test" / kind)
        alone = replace(config, data=str(root.with_name(kind)), metric="top1")
        shares.append(base.measure("knn", make_vit(), alone)["top1@3"])
    assert numbers["per-class@3"] != pytest.approx(numpy.average(shares, weights=[2, 1, 1]))
    assert numbers["per-class@3"] == pytest.approx(numpy.mean(shares))
    ends = details["intervals"]
    assert isinstance(ends, dict)
    assert ends["per-class@3"][0] < numbers["per-class@3"] < ends["per-class@3"][1]


def test_a_class_that_an_image_leaves_open_is_not_measured_on_it(make_vit: MakeVit, tmp_path: Path) -> None:
    data, backbone = f"voc07:{build('voc07', tmp_path)}", make_vit()
    result, details = knn.run(backbone, knn.Config(data=data, k=(2,)), None)
    left, right = (extract(backbone, open_source(data, split=split)) for split in ("train", "test"))
    found = members(left.classes)
    assert found is not None
    similar = unit(torch.from_numpy(right.vectors)) @ unit(torch.from_numpy(left.vectors)).T
    best = similar.sort(dim=1, descending=True, stable=True)
    weights = (best.values[:, :2] / 0.07).softmax(1).numpy()
    scores = (weights[:, :, None] * found[1][left.labels][best.indices[:, :2].numpy()]).sum(1)
    kept = ~undecided(left.classes)[right.labels]
    truth = found[1][right.labels]
    wanted = [eleven_points(truth[kept[:, c], c], scores[kept[:, c], c]) for c in range(2)]
    assert result["mAP@2"] == pytest.approx(100 * numpy.mean(wanted))
    ends = details["intervals"]
    assert isinstance(ends, dict)
    assert ends["best"] == ends["mAP@2"]
    assert ends["best"][0] <= result["best"] <= ends["best"][1]
