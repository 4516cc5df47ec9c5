"""The verb `distill`: what is not said is chosen so that it works."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dinokit import config as configuration
from dinokit.commands import distill, running
from dinokit.recipes import distilled
from dinokit.run import engine
from dinokit.training.config import TrainConfig
from dinokit.training.course import Distillation, chosen
from dinokit.views import multicrop
from tests.run.test_engine import config


def test_crops_of_the_teacher_are_brought_to_the_students_patches(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_folder(*(f"{index}.png" for index in range(4)))
    engine.pretrain(config(photos, steps=2), tmp_path / "teacher")  # crops of 16 and 8 px
    seen: list[TrainConfig] = []
    monkeypatch.setattr(running, "train_and_report", lambda config, *_: seen.append(config) or 0)
    distill.distill(teacher=str(tmp_path / "teacher"), students="vit_tiny,convnext_tiny", out=tmp_path / "run")
    crops = seen[0].experiment.data.views
    assert (crops.global_size, crops.local_size) == (32, 32)  # patches of 8 and 32


def test_objectives_and_rate_are_those_of_a_student_unless_settings_say_otherwise(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_folder(*(f"{index}.png" for index in range(4)))
    engine.pretrain(config(photos, steps=1), tmp_path / "teacher")
    seen: list[TrainConfig] = []
    monkeypatch.setattr(running, "train_and_report", lambda config, *_: seen.append(config) or 0)
    words = {"teacher": str(tmp_path / "teacher"), "students": "vit_tiny", "out": tmp_path / "run"}
    distill.distill(**words)  # type: ignore[arg-type]
    distill.distill(**words, settings={"objectives.dino.head.layers": 2})  # type: ignore[arg-type]
    before = config(photos).experiment.objectives
    own, changed = (each.experiment.objectives for each in seen)
    assert own["dino"] == replace(before["dino"], ignore_diagonal=False, head=replace(before["dino"].head, layers=1))
    assert own["ibot"] == before["ibot"]
    assert own["koleo"].weight == 3 * before["koleo"].weight
    assert changed["dino"].head.layers == 2
    assert seen[0].experiment.optim.lr.at(0) == 2 * config(photos).experiment.optim.lr.at(0) > 0


@pytest.mark.parametrize(
    ("sizes", "names", "expected"),
    [
        ((224, 96), "vits16,convnext_tiny", (224, 96)),
        ((48, 24), "dinov3_vits16", (48, 32)),
        ((48, 24), "convnext_tiny", (64, 32)),
    ],
)
def test_sizes_that_fit_stay_and_others_move_little(
    sizes: tuple[int, int], names: str, expected: tuple[int, int]
) -> None:
    crops = multicrop.Config(global_size=sizes[0], local_size=sizes[1], local_count=2)
    distil = Distillation(teacher="teacher", students=chosen(names))
    found = distilled._fitting(crops, distil)
    assert (found.global_size, found.local_size) == expected
    distil.check_crops(found)


def test_the_same_command_goes_on_when_the_teacher_has_trained_on(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, teacher, out = make_folder(*(f"{index}.png" for index in range(4))), tmp_path / "teacher", tmp_path / "run"
    begun = config(photos, steps=4, checkpoint_every=2)

    def stop(step: int, path: Path) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(begun, teacher, on_checkpoint=stop)
    seen: list[TrainConfig] = []
    monkeypatch.setattr(running, "train_and_report", lambda config, _, run: seen.append(config) or 0)
    words = {"teacher": str(teacher), "students": "vit_tiny", "out": out}
    distill.distill(**words)  # type: ignore[arg-type]
    (out / "checkpoints" / "0").mkdir(parents=True)
    (out / "config.yaml").write_text(configuration.to_yaml(seen[0]))
    engine.pretrain(begun, teacher)
    distill.distill(**words)  # type: ignore[arg-type]
    distill.distill(**words | {"out": tmp_path / "new"})  # type: ignore[arg-type]
    steps = [Path(each.experiment.distil.teacher).name for each in seen if each.experiment.distil is not None]
    assert steps == ["2", "2", "4"]
