import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dinokit.core.messages import UserError
from dinokit.evaluation import base, logreg
from dinokit.evaluation.logreg import Config, Images
from dinokit.features.extraction import extract
from dinokit.metrics.precision import eleven_points
from dinokit.models.pixels import RawPixels
from dinokit.models.vit import VisionTransformer
from dinokit.sources.source import open_source
from dinokit.sources.table import members, undecided
from tests.sources.sets import build

MakeVit = Callable[..., VisionTransformer]
MakeFolder = Callable[..., Path]

COUNTS = {"train": 6, "val": 4, "test": 5}
SPLIT = tuple(f"{split}/{label}/{i}.png" for split, count in COUNTS.items() for label in "abc" for i in range(count))


def naive(backbone: VisionTransformer, data: str, cs: tuple[float, ...]) -> tuple[float, float]:
    """The protocol with scikit-learn: the test accuracy and C."""
    found = {split: extract(backbone, open_source(data, split=split)) for split in COUNTS}
    rows = {split: each.vectors.astype(float) for split, each in found.items()}
    labels = {split: each.labels for split, each in found.items()}

    def fit(parts: tuple[str, ...], c: float) -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=c, tol=1e-12, max_iter=10_000)
            return model.fit(numpy.concatenate([rows[p] for p in parts]), numpy.concatenate([labels[p] for p in parts]))

    values = [fit(("train",), c).score(rows["val"], labels["val"]) for c in cs]
    c = cs[int(numpy.argmax(values))]
    return 100 * fit(("train", "val"), c).score(rows["test"], labels["test"]), c


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_the_protocol_with_scikit_learn(make_vit: MakeVit, make_folder: MakeFolder, seed: int) -> None:
    data = str(make_folder(*SPLIT, tinted=False))  # hard: an accuracy of 100 % would hide a wrong choice
    backbone, cs = make_vit(seed=seed), (1e-3, 0.1, 1.0, 100.0)
    result = base.measure("logreg", backbone, Config(data=data, c=cs))
    assert (result["top1"], result["C"]) == pytest.approx(naive(backbone, data, cs))
    assert (result["train"], result["test"]) == (30, 15)


def test_colours_are_told_apart(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    result = base.measure("logreg", make_vit(), Config(data=str(make_folder(*SPLIT))))
    assert result["top1"] == result["val"] == 100


def test_of_equal_values_the_smallest_c_counts(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    result = base.measure("logreg", make_vit(), Config(data=str(make_folder(*SPLIT)), c=(1e5, 1e3, 1e4)))
    assert result["C"] == 1e3


def test_a_class_that_val_does_not_have_is_learnt_and_one_that_train_does_not_have_is_wrong(
    make_vit: MakeVit, make_folder: MakeFolder
) -> None:
    files = [file for file in SPLIT if not file.startswith("val/b")] + [f"test/d/{i}.png" for i in range(5)]
    result = base.measure("logreg", make_vit(), Config(data=str(make_folder(*files)), metric="per-class", c=(1.0,)))
    assert result["per-class"] == 75


def test_the_published_values_of_c() -> None:
    assert pytest.approx(numpy.logspace(-6, 5, 45)) == logreg.CS


def test_a_part_of_train_stands_in_for_what_is_not_there(
    make_vit: MakeVit, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = str(make_folder(*(f"{label}/{i}.png" for label in "ab" for i in range(10)), name="plain"))
    result = base.measure("logreg", make_vit(), Config(data=plain))
    assert (result["top1"], result["train"], result["test"]) == (100, 16, 4)
    assert "20% of each class are set aside" in capsys.readouterr().err
    two = str(make_folder(*(file for file in SPLIT if not file.startswith("test")), name="two"))
    result = base.measure("logreg", make_vit(), Config(data=two))
    assert (result["train"], result["test"]) == (18, 12)  # val is tested on; what chose C is learnt again


def test_a_picture_that_is_learnt_and_measured_is_said(
    make_vit: MakeVit, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(*SPLIT, tinted=False)
    (there,) = sorted((root / "test" / "a").glob("*.png"))[:1]
    there.write_bytes((sorted((root / "train" / "a").glob("*.png"))[0]).read_bytes())
    numbers, details = logreg.run(make_vit(), Config(data=str(root), c=(1.0,)), None)
    assert numbers["leaks"] == 1
    assert len(details["leakage"]["equal"]) == 1  # type: ignore[index, arg-type, call-overload]
    assert "leakage, images of test that are in train or what chooses again, 1" in capsys.readouterr().err


def test_few_shots_are_drawn_several_times_and_not_fitted_again(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    config = Config(data=str(make_folder(*SPLIT, tinted=False)), shots=2.0, draws=3, c=(1.0,))
    numbers, details = logreg.run(make_vit(), config, None)
    each = details["draws"]
    assert isinstance(each, list)
    values = [one["top1"] for one in each]
    assert len(set(values)) > 1
    assert numbers["top1"] == pytest.approx(numpy.mean(values))
    assert numbers["top1/std"] == pytest.approx(numpy.std(values))
    assert numbers["train"] == 6


@pytest.mark.parametrize("files", [("a/0.png", "b/0.png"), ("train/a/0.png", "train/b/0.png", "val/a/0.png")])
def test_one_image_of_each_class_is_too_few(files: tuple[str, ...], make_folder: MakeFolder) -> None:
    with pytest.raises(UserError, match=r"(two or more images of a class|expected labelled images)"):
        base.measure("logreg", RawPixels(size=16), Config(data=str(make_folder(*files))))


def test_splits_without_a_class_in_common_are_refused(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    files = [f"train/{name}/{i}.png" for name in ("cats", "dogs") for i in range(3)]
    files += [f"val/{name}/0.png" for name in ("Cat", "Dog")]
    with pytest.raises(UserError, match="no class of the test images"):
        base.measure("logreg", make_vit(), Config(data=str(make_folder(*files))))


@pytest.mark.parametrize("wrong", [{"c": ()}, {"c": (0.0,)}, {"shots": 1.5}, {"draws": 2}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError):
        Config(data="x", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ["top1", "per-class"])
@pytest.mark.parametrize("shots", [None, 2.0])
def test_an_interval_stands_beside_the_metric(
    make_vit: MakeVit, make_folder: MakeFolder, metric: Literal["top1", "per-class"], shots: float | None
) -> None:
    files = (*SPLIT, "test/a/8.png", "test/a/9.png")  # classes of several sizes
    config = Config(data=str(make_folder(*files, tinted=False)), c=(1.0,), metric=metric, shots=shots)
    numbers, details = logreg.run(make_vit(), config, None)
    ends = details["intervals"]
    assert isinstance(ends, dict)
    assert ends[metric][0] < numbers[metric] < ends[metric][1]


def of_voc(backbone: VisionTransformer, data: str, cs: tuple[float, ...]) -> tuple[float, float]:
    """The protocol of VOC 2007 with scikit-learn, an image left out of the classes that it leaves open."""
    found = {split: extract(backbone, open_source(data, split=split)) for split in COUNTS}
    named, doubtful = members(found["train"].classes), undecided(found["train"].classes)
    assert named is not None
    rows = {split: each.vectors.astype(float) for split, each in found.items()}
    truth = {split: named[1][each.labels] for split, each in found.items()}
    kept = {split: ~doubtful[each.labels] for split, each in found.items()}

    def points(parts: tuple[str, ...], c: float, judge: str) -> float:
        x, y, use = (numpy.concatenate([each[part] for part in parts]) for each in (rows, truth, kept))
        each = []
        for column in range(y.shape[1]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = LogisticRegression(C=c, tol=1e-12, max_iter=10_000)
                model.fit(x[use[:, column]], y[use[:, column], column])
            some = kept[judge][:, column]
            each.append(eleven_points(truth[judge][some, column], model.decision_function(rows[judge][some])))
        return float(numpy.mean(each))

    values = [points(("train",), c, "val") for c in cs]
    c = cs[int(numpy.argmax(values))]
    return 100 * points(("train", "val"), c, "test"), c


def test_a_set_of_several_classes_is_one_regression_for_each(make_vit: MakeVit, tmp_path: Path) -> None:
    data, backbone, cs = f"voc07:{build('voc07', tmp_path)}", make_vit(), (1e-3, 1.0, 100.0)
    result = base.measure("logreg", backbone, Config(data=data, c=cs))
    assert (result["mAP"], result["C"]) == pytest.approx(of_voc(backbone, data, cs))
    assert (result["train"], result["test"]) == (16, 8)
    for shots in (None, 2.0):
        numbers, details = logreg.run(backbone, Config(data=data, c=cs[:1], shots=shots), None)
        ends = details["intervals"]
        assert isinstance(ends, dict)
        assert ends["mAP"][0] <= numbers["mAP"] <= ends["mAP"][1]
    with pytest.raises(UserError, match="have several classes.*which top1 does not judge"):
        base.measure("logreg", backbone, Config(data=data, metric="top1"))


def test_a_published_set_is_measured_as_its_paper_has_it(make_vit: MakeVit, tmp_path: Path) -> None:
    data = f"flowers102:{build('flowers102', tmp_path)}"
    assert "per-class" in base.measure("logreg", make_vit(), Config(data=data, c=(1.0,)))
    assert "top1" in base.measure("logreg", make_vit(), Config(data=data, c=(1.0,), metric="top1"))
    assert "mAP" in base.measure("logreg", make_vit(), Config(data=data, c=(1.0,), metric="mAP"))  # of one class each


def test_a_class_that_is_not_learnt_scores_alike_everywhere() -> None:
    features, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2
    truth = torch.stack([labels, torch.zeros_like(labels)], dim=1).to(torch.int8)
    images = Images(features, labels, truth)
    ((_, scores),) = logreg.fitted(images, [1.0])
    assert scores(features)[:, 0].unique().numel() == 6
    assert scores(features)[:, 1].unique().numel() == 1
    shown = Images(features, labels, torch.cat([truth[:, :1], torch.ones(6, 1, dtype=torch.int8)], dim=1))
    assert logreg.judged(scores, shown, "mAP") == pytest.approx((100 + logreg.judged(scores, images, "mAP")) / 2)
