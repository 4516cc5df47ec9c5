"""Distillation: one pass of a frozen teacher, students that do not touch each other, and a run like any other."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from dinokit import config as configuration
from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import RunFolder
from dinokit.core.messages import UserError
from dinokit.models import convnets, vit
from dinokit.models.architecture import Architecture
from dinokit.models.features import Features
from dinokit.objectives.assign import sinkhorn
from dinokit.run import engine
from dinokit.sources.source import open_source
from dinokit.training.config import TrainConfig
from dinokit.training.course import Distillation, Stages, Students, chosen
from dinokit.training.learner import masks_on_grid, on_grid
from dinokit.training.step import Trainer
from dinokit.training.teacher import Centroids, spherical_kmeans
from dinokit.views import multicrop
from tests.ranks import train_on_ranks
from tests.run.test_engine import assert_same, config, final, losses
from tests.run.test_engine import loader as fed

CPU = torch.device("cpu")
SMALL = vit.Config(patch_size=8, dim=8, depth=1, heads=1, ffn_hidden=16, drop_path=0.5)
FINE = vit.Config(patch_size=4, dim=12, depth=2, heads=1, ffn_hidden=16)
CONV = convnets.ConvNeXtConfig(dims=(4, 6, 8, 10), depths=(1, 1, 1, 1))


def learning(
    photos: Path, teacher: Path, students: dict[str, Architecture], *, steps: int = 4, **runtime: object
) -> TrainConfig:
    base = config(photos, steps=steps, **runtime)
    crops = multicrop.Config(
        global_size=32, local_size=16 if all(each.whole_patches for each in students.values()) else 32, local_count=2
    )
    experiment = replace(
        base.experiment,
        data=replace(base.experiment.data, views=crops),
        stages=Stages({}),
        distil=Distillation(teacher=str(teacher), students=Students(students), fit_images=8),
    )
    return replace(base, experiment=experiment)


def test_a_frozen_teacher_counts_as_wide_however_narrow_its_students(photos: Path, tmp_path: Path) -> None:
    distilling = learning(photos, tmp_path / "teacher", {"small": SMALL}).experiment
    assert distilling.width is None
    assert replace(distilling, distil=None).width == 16


def step_of(settings: TrainConfig) -> tuple[Trainer, dict[str, float]]:
    distiller = Trainer(settings.experiment, CPU)
    source = open_source(settings.experiment.data.source)
    distiller.begin(source)
    loader = fed(settings, distiller)
    report = distiller.step([loader.build(0, micro).views for micro in range(2)], step=0)
    assert report.finite
    return distiller, report.values


def test_the_teacher_looks_once_at_each_crop_and_stays_as_it_was(photos: Path, teacher: Path) -> None:
    settings = learning(photos, teacher, {"small": SMALL, "fine": FINE, "conv": CONV})
    distiller = Trainer(settings.experiment, CPU)
    assert distiller.teacher is not None
    distiller.begin(open_source(str(photos)))
    seen: list[torch.Size] = []
    distiller.teacher.network.register_forward_hook(lambda _, images, __: seen.append(images[0].shape))
    before = {name: value.clone() for name, value in distiller.teacher.network.state_dict().items()}
    of_heads = distiller.teacher.heads.values()
    heads = {name: value.clone() for head in of_heads for name, value in head.state_dict().items()}
    loader = fed(settings, distiller)
    distiller.step([loader.build(0, micro).views for micro in range(2)], step=0)
    # two micro-batches of 2 images, 2 global crops each, at the grid of the finest student
    assert seen == [torch.Size([4, 3, 32, 32])] * 2
    assert all(torch.equal(value, before[name]) for name, value in distiller.teacher.network.state_dict().items())
    after = {name: value for head in distiller.teacher.heads.values() for name, value in head.state_dict().items()}
    assert all(torch.equal(value, heads[name]) for name, value in after.items())


def test_students_together_are_what_each_is_alone(photos: Path, teacher: Path) -> None:
    students: dict[str, Architecture] = {"small": SMALL, "fine": replace(SMALL, dim=12, depth=2)}
    both, values = step_of(learning(photos, teacher, students))
    for name, architecture in students.items():
        alone, own = step_of(learning(photos, teacher, {name: architecture}))
        expected = alone.learners[name].own_state()
        found = both.learners[name].own_state()
        assert all(torch.equal(value, expected[key]) for key, value in found.items())
        assert {key: v for key, v in values.items() if key.startswith(f"loss/{name}/")} == {
            key: v for key, v in own.items() if key.startswith(f"loss/{name}/")
        }


def test_the_targets_are_those_of_the_teachers_own_heads(photos: Path, teacher: Path) -> None:
    """The loss of a student by hand: cross-entropy with the softmax of the teacher's centred logits."""
    settings = learning(photos, teacher, {"small": replace(SMALL, drop_path=0.0)})
    distiller = Trainer(settings.experiment, CPU)
    assert distiller.teacher is not None
    distiller.begin(open_source(str(photos)))
    state = load_file(teacher / "checkpoints" / "2" / "state.safetensors")
    prefix = "objectives.dino.head.teacher."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    assert all(torch.equal(value, own[name]) for name, value in distiller.teacher.heads["dino"].state_dict().items())

    batch = fed(settings, distiller).build(0, 0).views.on(CPU)
    found = distiller.losses(batch, step=0)["small", "dino"]
    learner = distiller.learners["small"]
    head = learner.objectives["dino"].head.student
    cls = distiller.teacher.network(batch.global_crops.flatten(0, 1)).cls
    says = distiller.teacher.heads["dino"](cls).unflatten(0, (2, -1))
    centre = state["objectives.dino.targets.centre"]
    assert centre.abs().max() > 0
    wanted = ((says - centre) / settings.experiment.objectives["dino"].teacher_temperature.at(0)).softmax(-1)

    def log_p(crops: Tensor) -> Tensor:
        logits = head(learner.backbone.student(crops.flatten(0, 1)).cls).unflatten(0, crops.shape[:2])
        return (logits / 0.1).log_softmax(-1)

    large = -(wanted.flip(0) * log_p(batch.global_crops)).sum(-1).mean()
    local = -(wanted[:, None] * log_p(batch.local_crops)[None]).sum(-1).mean()
    assert found.terms["dino_global"].item() == pytest.approx(large.item(), rel=1e-5)
    assert found.terms["dino_local"].item() == pytest.approx(local.item(), rel=1e-5)


def test_a_run_that_was_killed_goes_on_to_the_bit_and_every_student_loads(
    photos: Path, teacher: Path, tmp_path: Path
) -> None:
    students: dict[str, Architecture] = {"conv": CONV, "small": SMALL}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    engine.pretrain(learning(photos, teacher, students), whole)

    def kill(step: int, path: Path) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(learning(photos, teacher, students), parts, on_checkpoint=kill)
    engine.pretrain(learning(photos, teacher, students), parts)
    assert losses(whole) == losses(parts)
    assert_same(whole, parts)
    images = torch.rand(2, 3, 32, 32)
    for name, dim in (("conv", 10), ("small", 8)):
        assert (whole / f"{name}.safetensors").read_bytes() == (parts / f"{name}.safetensors").read_bytes()
        assert load(whole / f"{name}.safetensors")(images).cls.shape == (2, dim)
    assert torch.equal(load(whole)(images).cls, load(whole / "small.safetensors")(images).cls)  # the first transformer


def test_a_teacher_without_heads_gets_prototypes_that_the_checkpoint_keeps(
    photos: Path, teacher: Path, tmp_path: Path
) -> None:
    settings = learning(photos, teacher / "model.safetensors", {"small": SMALL}, steps=2, checkpoint_every=1)
    few = {"objectives.dino.head.prototypes": 4, "objectives.ibot.head.prototypes": 6}
    settings = configuration.override(settings, few, hidden=("experiment", "runtime"))
    engine.pretrain(settings, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    first, last = (load_file(run.checkpoint(step) / "state.safetensors") for step in (1, 2))
    assert first["heads.dino.centres"].shape == (4, 16)
    assert first["heads.ibot.centres"].shape == (6, 16)
    assert torch.equal(first["heads.dino.centres"], last["heads.dino.centres"])
    assert torch.allclose(first["heads.dino.centres"].norm(dim=1), torch.ones(4))
    with pytest.raises(UserError, match="1,000 prototypes want as many features, got 8"):
        many = configuration.override(settings, {"objectives.dino.head.prototypes": 1000}, hidden=("experiment",))
        engine.pretrain(many, tmp_path / "many")


def test_a_convolutional_student_may_be_alone(photos: Path, teacher: Path, tmp_path: Path) -> None:
    engine.pretrain(learning(photos, teacher, {"conv": CONV}, steps=1), tmp_path / "run")
    assert load(tmp_path / "run")(torch.rand(1, 3, 64, 32)).grid == (2, 1)


def test_without_masks_every_patch_counts(photos: Path, teacher: Path) -> None:
    settings = learning(photos, teacher, {"small": replace(SMALL, drop_path=0.0)})
    plain = configuration.override(settings, {"data.masks": None}, hidden=("experiment", "runtime"))
    distiller = Trainer(plain.experiment, CPU)
    assert distiller.teacher is not None
    distiller.begin(open_source(str(photos)))
    batch = fed(plain, distiller).build(0, 0).views.on(CPU)
    found = distiller.losses(batch, step=0)["small", "ibot"].terms["ibot"]
    crops, learner, config = batch.global_crops.flatten(0, 1), distiller.learners["small"], plain.experiment.objectives
    small = functional.interpolate(crops, size=(16, 16), mode="bilinear", antialias=True)  # 4 x 4 patches of 4 px
    logits = distiller.teacher.heads["ibot"](distiller.teacher.network(small).patches.flatten(0, 1))
    wanted = sinkhorn(logits, temperature=config["ibot"].teacher_temperature.at(0))
    guess = learner.objectives["ibot"].head.student(learner.backbone.student(crops).patches.flatten(0, 1))
    by_hand = -(wanted * (guess / 0.1).log_softmax(-1)).sum(-1).mean()
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("heads", [True, False])
def test_two_processes_distil_as_one(heads: bool, photos: Path, teacher: Path, tmp_path: Path) -> None:
    """Targets are balanced over the images of both, and prototypes found among them: rounding is all that differs."""
    students: dict[str, Architecture] = {"small": replace(SMALL, drop_path=0.0), "conv": CONV}
    changed: dict[str, object] = {"objectives.koleo": None}  # which divides by the distance of nearly equal features
    if not heads:
        changed |= {"objectives.dino.head.prototypes": 4, "objectives.ibot.head.prototypes": 6}
    runs = {}
    settings = learning(photos, teacher if heads else teacher / "model.safetensors", students)
    settings = configuration.override(settings, changed, hidden=("experiment", "runtime"))
    for processes, train in ((1, engine.pretrain), (2, train_on_ranks)):
        runs[processes] = tmp_path / str(processes)
        train(settings, runs[processes])
    for step, loss in losses(runs[1]).items():
        assert losses(runs[2])[step] == pytest.approx(loss, rel=1e-4)
    one, two = final(runs[1]), final(runs[2])
    for name, value in one.items():
        if value.is_floating_point() and value.norm():
            assert float((two[name] - value).norm() / value.norm()) < 1e-2, name


def test_a_run_goes_on_without_the_teachers_state_but_not_with_another_teacher(
    photos: Path, teacher: Path, tmp_path: Path
) -> None:
    teacher = shutil.copytree(teacher, tmp_path / "teacher")
    settings = learning(photos, teacher / "checkpoints" / "2", {"small": SMALL}, steps=2, checkpoint_every=1)

    def kill(step: int, path: Path) -> None:
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(settings, tmp_path / "run", on_checkpoint=kill)
    for name in ("state.safetensors", "state.json"):  # as a run does that trains on
        (teacher / "checkpoints" / "2" / name).unlink()
    with pytest.raises(UserError, match="keeps no heads of step 2"):
        engine.pretrain(settings, tmp_path / "late")
    weights = teacher / "checkpoints" / "2" / "model.safetensors"
    own = weights.read_bytes()
    weights.write_bytes((teacher / "checkpoints" / "0" / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="is another network than when this run began"):
        engine.pretrain(settings, tmp_path / "run")
    weights.write_bytes(own)
    engine.pretrain(settings, tmp_path / "run")
    assert RunFolder(tmp_path / "run").steps()[-1] == 2


def test_k_means_finds_directions_that_are_there() -> None:
    directions = torch.eye(5)
    noise = 0.05 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    unit = functional.normalize(directions.repeat(40, 1) + noise, dim=-1)
    head = Centroids(5, 5)
    head.centres.copy_(spherical_kmeans(unit, 5, seed=0))
    assert sorted(head.centres.argmax(dim=1).tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(spherical_kmeans(unit, 5, seed=0), spherical_kmeans(unit, 5, seed=0))


def test_a_coarser_grid_gets_means_and_majorities() -> None:
    patches = torch.arange(16.0).reshape(1, 1, 16, 1)
    coarse = on_grid(Features(torch.zeros(1, 1, 1), torch.zeros(1, 1, 0, 1), patches, (4, 4)), (2, 2))
    assert coarse.patches.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    masks = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    masks[..., 0, :2] = masks[..., 3, 3] = True
    assert masks_on_grid(masks.flatten(2), (4, 4), (2, 2)).flatten().tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"data.views.global_size": 36},
            "student conv: global_size 36 is not a multiple of the patch size 32; use 32 or 64",
        ),
        ({"objectives.dino.head.prototypes": 5}, "must be the teacher's 12, got 5"),
        (
            {"data.views.local_size": 8, "data.views.global_size": 64},
            "student conv: local_size 8 is less",
        ),
        ({"runtime.sharding": "fsdp"}, "a distillation is not sharded"),
        ({"optim.trained": "heads"}, "students begin at random and learn whole; set optim.trained to all"),
    ],
)
def test_what_does_not_fit_is_said(
    photos: Path, teacher: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    settings = learning(photos, teacher, {"conv": CONV, "small": SMALL})
    with pytest.raises(UserError, match=said):
        engine.pretrain(configuration.override(settings, change, hidden=("experiment", "runtime")), tmp_path / "run")


def test_students_are_named_as_the_list_of_models_does() -> None:
    found = chosen("vit-tiny, vits16,convnext_tiny")
    assert list(found) == ["vit_tiny", "vits16", "convnext_tiny"]
    assert found["vits16"].dim == 384
    assert found["convnext_tiny"].kind == "convnext"
    with pytest.raises(UserError, match="did you mean"):
        chosen("vitts16")
