"""Every kind of backbone is pretrained by one contract."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dinokit import config as configuration
from dinokit.checkpoints.load import load
from dinokit.core import dist
from dinokit.core.files import read_jsonl
from dinokit.core.messages import UserError
from dinokit.models import convnets
from dinokit.models.architecture import Architecture
from dinokit.models.convnets import BatchNorm
from dinokit.models.head import running_statistics
from dinokit.objectives import koleo
from dinokit.planning import plan
from dinokit.run import engine
from dinokit.training.config import HALVES, ObjectiveConfigs, TrainConfig, with_settings
from dinokit.training.course import Students
from dinokit.training.step import Trainer
from dinokit.views import multicrop
from dinokit.views.multicrop import Views
from tests.ranks import on_ranks
from tests.run.test_engine import assert_same, config, losses
from tests.training.test_distil import learning
from tests.training.test_step import CPU

KINDS: dict[str, Architecture] = {
    "convnext": convnets.ConvNeXtConfig(dims=(4, 6, 8, 10), depths=(1, 1, 1, 1), layer_scale=0.1),
    "resnet": convnets.ResNetConfig(width=2, depths=(1, 1, 1, 1)),
}
LARGE = multicrop.Config(global_size=64, local_size=32, local_count=2)


def of_kind(photos: Path, kind: str, **runtime: object) -> TrainConfig:
    """A run of six steps without masks."""
    base = config(photos, **runtime)
    experiment = base.experiment
    without = ObjectiveConfigs({name: each for name, each in experiment.objectives.items() if name != "ibot"})
    data = replace(experiment.data, views=LARGE, masks=None)
    return replace(base, experiment=replace(experiment, data=data, backbone=KINDS[kind], objectives=without))


def views(seed: int = 0) -> Views:
    generator = torch.Generator().manual_seed(seed)
    return Views(
        torch.randn(2, 4, 3, 64, 64, generator=generator), torch.randn(2, 4, 3, 32, 32, generator=generator), None
    )


# the one with batch norm has more to keep; both are trained in test_the_teacher_follows and in CI
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "resnet" else pytest.mark.slow) for kind in KINDS]
)
def test_it_learns_and_goes_on_to_the_bit_and_its_health_is_told(kind: str, photos: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = of_kind(photos, kind)
    settings = replace(settings, runtime=replace(settings.runtime, health=replace(settings.runtime.health, every=3)))
    engine.pretrain(settings, whole)

    def kill(step: int, path: Path) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(settings, parts, on_checkpoint=kill)
    engine.pretrain(settings, parts)
    assert_same(whole, parts)
    assert losses(whole) == losses(parts)
    assert load(whole)(torch.rand(1, 3, 64, 96)).grid == (2, 3)
    line = next(line for line in read_jsonl(whole / "metrics.jsonl") if line["step"] == 6)
    assert line["health/not_finite"] == 0
    assert line["health/teacher_change"] > 0
    assert line["health/cls_norm"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_follows_and_its_batch_norms_see_their_own_crops(kind: str, photos: Path) -> None:
    trainer = Trainer(of_kind(photos, kind).experiment, CPU)
    before = {name: value.clone() for name, value in trainer.backbone.teacher.named_parameters()}
    statistics = [value.clone() for value in running_statistics(trainer.backbone.teacher)]
    trainer.step([views()], step=0)
    student = dict(trainer.backbone.student.named_parameters())
    for name, value in trainer.backbone.teacher.named_parameters():
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * student[name])
    now = running_statistics(trainer.backbone.teacher)
    assert all(not torch.equal(one, other) for one, other in zip(now, statistics, strict=True))
    assert [int(each) for each in now if each.ndim == 0] == [1] * (len(now) // 3)  # one look, at both global crops


def test_a_step_that_is_skipped_leaves_no_trace_in_batch_norms(photos: Path) -> None:
    trainer = Trainer(of_kind(photos, "resnet").experiment, CPU)
    trainer.step([views()], step=0)
    before = {name: value.clone() for name, value in trainer.state().items()}
    broken = views(1)
    broken.global_crops[0, 0, 0, 0, 0] = torch.nan
    assert not trainer.step([views(), broken], step=1).finite
    assert all(torch.equal(value, before[name]) for name, value in trainer.state().items())


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("resnet", {"data.views.local_size": 24}, "local_size 24 is not a multiple of the patch size 32"),
        ("resnet", {"runtime.recompute": "full"}, "a resnet would count images twice"),
        ("convnext", {"runtime.sharding": "fsdp"}, "sharding is for transformers, not a convnext"),
    ],
)
def test_what_a_kind_cannot_do_is_said_in_a_line(kind: str, settings: dict[str, Any], said: str, photos: Path) -> None:
    with pytest.raises(UserError, match=said):
        configuration.override(of_kind(photos, kind), settings, hidden=HALVES)


def test_masks_are_refused_by_a_network_without_them(photos: Path) -> None:
    with pytest.raises(UserError, match="this convnext has none; set objectives.ibot to null"):
        with_settings(config(photos), {"backbone.kind": "convnext"})


def test_a_convnext_recomputes_its_blocks(photos: Path) -> None:
    experiment = of_kind(photos, "convnext").experiment
    plain, again = (Trainer(experiment, CPU, recompute=how) for how in ("none", "full"))
    assert plain.step([views()], step=0).values == again.step([views()], step=0).values


def test_plan_refuses_what_it_does_not_know(photos: Path) -> None:
    settings = of_kind(photos, "resnet")
    with pytest.raises(UserError, match="plan knows transformers only, not a resnet"):
        plan.plan(settings.experiment, settings.runtime, rate=1e12, bf16=False)


def test_a_kind_or_a_name_replaces_the_settings_of_the_recipe(photos: Path) -> None:
    base = replace(config(photos), experiment=replace(of_kind(photos, "convnext").experiment))
    kind = with_settings(base, {"backbone.depths": [1, 1, 1, 1], "backbone.kind": "resnet", "backbone.width": 2})
    assert kind.experiment.backbone == KINDS["resnet"]
    named = with_settings(base, {"backbone.kind": "dinov3_convnext_tiny", "backbone.layer_scale": 0.5})
    assert named.experiment.backbone == convnets.ConvNeXtConfig(layer_scale=0.5)
    assert with_settings(base, {"backbone": "convnext_tiny"}).experiment.backbone == convnets.ConvNeXtConfig()
    with pytest.raises(UserError, match="depthss.*did you mean.*depths"):
        with_settings(base, {"backbone.kind": "resnet", "backbone.depthss": [1]})
    with pytest.raises(UserError, match="dino_resnet50"):
        with_settings(base, {"backbone": "resnet51"})


def test_settings_without_a_kind_are_a_transformers_and_such_a_run_goes_on(photos: Path, tmp_path: Path) -> None:
    engine.pretrain(config(photos, steps=2), tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    early = configuration.read_yaml(path)
    assert early["experiment"]["backbone"].pop("kind") == "vit"
    path.write_text(configuration.to_yaml(early))
    engine.pretrain(config(photos, steps=2), tmp_path / "run")
    assert configuration.from_plain(TrainConfig, early) == config(photos, steps=2)


def test_a_resnet_may_be_a_student_whose_average_has_average_statistics(photos: Path, teacher: Path) -> None:
    settings = learning(photos, teacher, {"net": KINDS["resnet"]})
    trainer = Trainer(settings.experiment, CPU)
    assert trainer.teacher is not None
    trainer.step([Views(torch.randn(2, 4, 3, 32, 32), torch.randn(2, 4, 3, 32, 32), None)], step=0)
    student, average = (getattr(trainer.backbone, name).bn1 for name in ("student", "teacher"))
    torch.testing.assert_close(average.running_mean, 0.1 * student.running_mean)
    torch.testing.assert_close(average.running_var, 0.9 + 0.1 * student.running_var)


def test_early_students_had_their_settings_in_a_group() -> None:
    plain = {"net": {"kind": "convnext", "settings": {"dims": [4, 6, 8, 10]}}, "other": {"kind": "resnet", "width": 2}}
    found = configuration.converter.structure(plain, Students)
    assert found == {"net": convnets.ConvNeXtConfig(dims=(4, 6, 8, 10)), "other": convnets.ResNetConfig(width=2)}


def _half(rank: int, store: str, expected: dict[str, torch.Tensor]) -> None:
    torch.set_num_threads(1)
    dist.join(backend="gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for name, value in _batch_norm(rank).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    dist.leave()


def _batch_norm(rank: int | None) -> dict[str, torch.Tensor]:
    norm = BatchNorm(3)
    images = (
        torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 5)[:, None, None, None]
    )
    own = images if rank is None else images.chunk(2)[rank]
    weights = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(1))
    own.requires_grad_()
    out = norm(own)
    (out * (weights if rank is None else weights.chunk(2)[rank])).sum().backward()
    assert own.grad is not None
    gathered = {"out": dist.all_gather(out.detach()), "gradient": dist.all_gather(own.grad)}
    return gathered | {"mean": norm.running_mean, "variance": norm.running_var}  # type: ignore[dict-item]


def test_batch_norm_of_two_ranks_is_that_of_one(tmp_path: Path) -> None:
    on_ranks(_half, str(tmp_path / "store"), _batch_norm(None))


def test_koleo_of_a_single_cell_is_no_reason_to_fail(photos: Path) -> None:
    """A map of one cell: CLS and the only patch are the same."""
    experiment = of_kind(photos, "convnext").experiment
    small = replace(experiment.data, views=replace(LARGE, global_size=32))
    alone = ObjectiveConfigs({"koleo": koleo.Config()})
    trainer = Trainer(replace(experiment, data=small, objectives=alone), CPU)
    crops = torch.randn(2, 4, 3, 32, 32)
    assert trainer.step([Views(crops, crops, None)], step=0).finite
