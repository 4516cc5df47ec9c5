import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from dinokit.annotations.pairs import open_pairs
from dinokit.core.messages import UserError
from dinokit.dense.heads import load_head
from dinokit.dense.lesson import Lesson, gathered
from dinokit.dense.segmentation import Crops, PatchVote, cell_labels, crop_pair, cross_entropy
from dinokit.evaluation import base, segmentation
from dinokit.evaluation.segmentation import Config
from dinokit.models.features import Features
from dinokit.models.pixels import PatchPixels
from dinokit.models.vit import VisionTransformer
from tests.conftest import MakeFolder
from tests.evaluation.dense_data import squares

run = partial(base.measure, "segmentation")

MakeVit = Callable[..., VisionTransformer]
PIXELS = PatchPixels(patch_size=4)
QUICK: dict[str, Any] = {"size": 24, "iterations": 60, "warmup": 2, "batch_size": 2, "lr": (0.05,)}
LINEAR: dict[str, Any] = QUICK | {"protocol": "linear"}


@pytest.mark.parametrize("protocol", ["linear", "linear-v2", "knn", "quick"])
def test_what_every_patch_shows_is_found(protocol: str, tmp_path: Path, make_vit: MakeVit) -> None:
    config = Config(data=str(squares(tmp_path)), protocol=protocol, **QUICK)  # type: ignore[arg-type]
    result = run(make_vit(), config)
    assert result["images"] == 3
    # bilinear logits round the corners of squares of two patches
    assert result["mIoU"] > 80, result
    assert result["aAcc"] > 93, result


def test_scales_and_mirrors_find_it_too(tmp_path: Path) -> None:
    quick = QUICK | {"iterations": 8}
    result = run(PIXELS, Config(data=str(squares(tmp_path)), protocol="ms", limit=1, **quick))
    assert result["aAcc"] > 80, result


def test_the_head_is_saved_and_an_untrained_backbone_is_left_alone(tmp_path: Path, make_vit: MakeVit) -> None:
    backbone = make_vit().train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    config = Config(data=str(squares(tmp_path / "data")), **LINEAR | {"iterations": 3, "lr": (1e-3, 1e-2)})
    result = run(backbone, config, tmp_path / "out")
    assert run(backbone, config, tmp_path / "out") == run(backbone, config) == result
    with pytest.raises(UserError, match="with other weights; delete it"):
        run(make_vit(seed=1), config, tmp_path / "out")
    assert backbone.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    written = json.loads((tmp_path / "out" / "segmentation.json").read_text())
    assert list(written["IoU"]) == ["0", "1", "2"]
    _, about = load_head(tmp_path / "out" / "head")
    assert (about.task, about.short, about.crop, about.stride) == ("segmentation", 24, 24, 16)
    assert about.details["classes"] == ["0", "1", "2"]


OTHER: dict[str, Any] = {
    "protocol": "linear-v2",
    "train": "val",
    "test": "train",
    "size": 16,
    "iterations": 2,
    "warmup": 1,
    "batch_size": 1,
    "lr": (1e-2,),
    "seed": 1,
    "limit": 1,
}
OTHER_KNN: dict[str, Any] = {"k": 150, "temperature": 10.0, "bank": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(squares(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def before() -> dict[Config, dict[str, float]]:
    """What is found by settings that several others are compared with."""
    return {}


@pytest.mark.parametrize("field", [field.name for field in fields(Config) if field.name not in ("data", "head")])
def test_every_setting_changes_the_result(
    field: str, data: str, before: dict[Config, dict[str, float]], make_vit: MakeVit
) -> None:
    kind = "knn" if field in OTHER_KNN else "linear"
    quick = QUICK | {"iterations": 6, "warmup": 3, "lr": (0.1,)}
    quick |= {"temperature": 10.0} if field == "k" else {}
    config = Config(data=data, protocol=kind, **quick)  # type: ignore[arg-type]
    if config not in before:
        before[config] = run(make_vit(), config)
    changed = replace(config, **{field: (OTHER | OTHER_KNN)[field]})
    assert run(make_vit(), changed) != before[config]


def test_baselines_are_those_of_patches(make_vit: MakeVit) -> None:
    found = base.baselines(make_vit(), dense=True)["raw-pixels"]
    assert isinstance(found, PatchPixels)
    assert found.patch_size == 4


def test_data_without_a_split_to_test_on_is_a_clear_mistake(tmp_path: Path) -> None:
    squares(tmp_path, splits=False)
    with pytest.raises(UserError, match="found no split val or test"):
        run(PIXELS, Config(data=str(tmp_path)))


def test_a_folder_of_classes_is_told_what_is_expected(make_folder: MakeFolder) -> None:
    data = make_folder("train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/0.png")
    with pytest.raises(UserError, match="expected pairs in .*: images/ and masks/"):
        run(PIXELS, Config(data=str(data)))


def test_a_crop_and_its_mask_stay_in_step_and_follow_from_the_key(tmp_path: Path) -> None:
    image, mask = open_pairs(str(squares(tmp_path))).read(0)
    crops = Crops(16, (1.0, 3.0), hue=0.0)
    for number in range(8):
        pixels, labels = crop_pair(image, mask, crops, key=(number,))
        again, _ = crop_pair(image, mask, crops, key=(number,))
        assert torch.equal(pixels, again)
        light = pixels.mean(0)
        if {0, 1} <= set(labels.unique().tolist()):
            assert light[labels == 1].mean() > light[labels == 0].mean() + 0.2


def test_white_is_distorted_as_the_gray_next_to_it() -> None:
    mask = numpy.zeros((13, 17), dtype=numpy.uint8)
    white, gray = (torch.full((3, 13, 17), value, dtype=torch.uint8) for value in (255, 254))
    white[:, 6:], gray[:, 6:] = 100, 100
    for number in range(60):
        crops = [crop_pair(image, mask, Crops(12, (0.5, 2.0)), key=(number,))[0] for image in (white, gray)]
        torch.testing.assert_close(*crops, atol=0.02, rtol=0, equal_nan=True)


def test_what_a_crop_lacks_is_ignored_and_one_class_may_not_fill_it(tmp_path: Path) -> None:
    image, mask = open_pairs(str(squares(tmp_path))).read(0)
    pixels, labels = crop_pair(image, mask, Crops(24, (0.5, 0.5)), key=(0,))
    assert (labels == 255).sum() >= 24 * 24 - 12 * 16
    assert torch.equal(pixels.isnan().all(0), pixels.isnan().any(0))
    assert (labels[pixels.isnan().all(0)] == 255).all()
    shares = []
    for cap in (None, 0.75):
        drawn = [crop_pair(image, mask, Crops(12, (1.0, 1.0), cap), key=(n,))[1] for n in range(30)]
        shares.append(sum(float((one == 0).float().mean()) > 0.8 for one in drawn))
    assert shares[1] < shares[0]


def test_the_best_of_a_sweep_is_reported_and_kept(tmp_path: Path, make_vit: MakeVit) -> None:
    config = Config(data=str(squares(tmp_path / "data")), **LINEAR | {"lr": (1e-9, 0.05)})
    result = run(make_vit(), config, tmp_path / "out")
    assert result["lr"] == 0.05
    assert load_head(tmp_path / "out" / "head")[0].classify.weight.abs().max() > 0.1  # far from N(0, 0.01)


def test_padding_and_ignored_patches_do_not_vote(tmp_path: Path) -> None:
    mask = numpy.full((17, 17), 1, dtype=numpy.uint8)
    mask[:, 8:] = 255
    for name, values in (("images", numpy.zeros((17, 17, 3), dtype=numpy.uint8)), ("masks", mask)):
        (tmp_path / name).mkdir()
        Image.fromarray(values).save(tmp_path / name / "1.png")
    pairs = open_pairs(str(tmp_path))
    how: dict[str, Any] = {"cut": crop_pair, "loss": cross_entropy, "empty": "", "seed": 0}  # of no use here
    lesson = Lesson(train=pairs, indices=[0], label=cell_labels, short=17, most=100, **how)
    bank, labels = gathered(PIXELS, lesson)
    assert (len(bank), labels.unique().tolist()) == (len(labels), [1])


def test_a_patch_takes_its_most_frequent_label() -> None:
    labels, counts = cell_labels(torch.tensor([[[1.0, 1, 1, 0], [255, 255, 2, 255]]]))
    assert (labels.tolist(), counts.tolist()) == ([[1, 255]], [[True, False]])


def test_votes_are_weighted_by_a_softmax_over_the_nearest() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    head = PatchVote(bank, torch.tensor([0, 1, 2]), classes=3, k=2, temperature=0.5)
    found = head([Features.from_maps(torch.tensor([[[[0.8]], [[0.6]]]]))])
    expected = torch.softmax(torch.tensor([0.8, 0.6]) / 0.5, 0)
    torch.testing.assert_close(found.flatten(), torch.tensor([*expected.tolist(), 0.0]))


def test_the_window_is_that_of_the_paper() -> None:
    windows = segmentation.PROTOCOLS["linear"].windows(512)
    assert (windows.crop, windows.stride) == (512, 341)
    windows = segmentation.PROTOCOLS["ms"].windows(640)
    assert (windows.crop, windows.stride) == (640, 320)


def test_nothing_is_trained_on_the_test(tmp_path: Path) -> None:
    shutil.rmtree(squares(tmp_path) / "train")
    with pytest.raises(UserError, match="found no split train beside val"):
        run(PIXELS, Config(data=str(tmp_path), **LINEAR))


def _void(path: Path) -> None:
    Image.new("L", (32, 24), 255).save(path)


def _small(path: Path) -> None:
    Image.new("L", (31, 24)).save(path)


@pytest.mark.parametrize(
    ("split", "spoil", "only", "said"),
    [
        ("val", _small, "2.png", "must be of one size"),
        ("train", _small, "3.png", "must be of one size"),
        ("val", _void, "*.png", "no pixel of .* counts"),
        ("train", _void, "*.png", "no pixel of .* counts"),
    ],
)
def test_what_is_wrong_with_the_masks_is_known_before_the_training(
    split: str, spoil: Callable[[Path], None], only: str, said: str, tmp_path: Path
) -> None:
    for path in (squares(tmp_path) / split / "masks").glob(only):
        spoil(path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(UserError, match=said):
        run(PIXELS, Config(data=str(tmp_path), **LINEAR | {"iterations": 10**6}))


def test_a_class_that_cannot_be_learnt_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (32, 24), 4).save(squares(tmp_path) / "val" / "masks" / "2.png")
    run(PIXELS, Config(data=str(tmp_path), **LINEAR | {"iterations": 1}))
    assert "no training mask shows 4, which" in capsys.readouterr().err


def test_changed_masks_are_another_training(tmp_path: Path) -> None:
    config = Config(data=str(squares(tmp_path / "data")), **LINEAR | {"iterations": 2})
    run(PIXELS, config, tmp_path / "out")
    path = tmp_path / "data" / "train" / "masks" / "0.png"
    times = path.stat()
    Image.fromarray(numpy.asarray(Image.open(path)).copy()[::-1]).save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match="with other data; delete it"):
        run(PIXELS, config, tmp_path / "out")


def test_masks_that_mean_something_else_are_other_data(tmp_path: Path) -> None:
    found = []
    squares(tmp_path, splits=False)
    for names in ({"ground": [0, 0, 0], "square": [1, 1, 1]}, {"square": [1, 1, 1], "ground": [0, 0, 0]}):
        (tmp_path / "classes.json").write_text(json.dumps(names))
        found.append(open_pairs(str(tmp_path)).digest())
    assert found[0] != found[1]


def test_a_cpu_takes_the_quick_protocol_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(data=str(squares(tmp_path)), size=24, iterations=60, batch_size=1)
    found = run(PIXELS, config)
    assert "the quick protocol" in capsys.readouterr().err
    assert found == run(PIXELS, replace(config, protocol="quick"))
    assert found["mIoU"] > 80


def test_layers_that_a_model_lacks_are_known_before_the_training(tmp_path: Path, make_vit: MakeVit) -> None:
    config = Config(data=str(squares(tmp_path)), protocol="ms")
    with pytest.raises(UserError, match="ms reads the last 4 layers; the model has 2 blocks; take linear"):
        run(make_vit(), config)


def test_a_saved_head_is_measured_as_it_was(tmp_path: Path, make_vit: MakeVit) -> None:
    backbone, data = make_vit(), str(squares(tmp_path / "data"))
    result = run(backbone, Config(data=data, **LINEAR | {"iterations": 3}), tmp_path / "out")
    head = str(tmp_path / "out" / "head")
    again = run(backbone, Config(data=data, head=head))
    assert again == {name: value for name, value in result.items() if name != "lr"}
    with pytest.raises(UserError, match="size, lr cannot be set with head"):
        Config(data=data, head=head, size=48, lr=(0.1,))
    with pytest.raises(UserError, match="whose weights are not those of"):
        run(make_vit(seed=1), Config(data=data, head=head))
    (tmp_path / "data" / "classes.txt").write_text("sky\nwall\n")
    with pytest.raises(UserError, match=r"the head tells 3 classes apart .* give data of the same classes"):
        run(backbone, Config(data=data, head=head))
