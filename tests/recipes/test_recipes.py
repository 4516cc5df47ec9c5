"""Every recipe is valid, survives YAML, and trains a step at a tiny size with all its own switches."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dinokit import recipes
from dinokit.config import from_plain, override, read_yaml, to_plain, to_yaml
from dinokit.core.messages import UserError
from dinokit.sources.source import open_source
from dinokit.training.config import HALVES, Experiment, ObjectiveConfigs, TrainConfig, with_settings
from dinokit.training.step import Trainer
from dinokit.views.loader import Loader

EXPECTED = {
    "demo", "dino-vits16", "dinov2-vits14", "dinov2-vitb14",
    "dinov3-vits16", "dinov3-vitb16", "dinov3-vitl16", "dinov3-vit7b16",
}  # fmt: skip


def shrunk(experiment: Experiment) -> Experiment:
    """The same experiment with a small network, small heads, small crops and a batch of four."""
    patch = experiment.backbone.patch_size
    grid = None if experiment.backbone.position_grid is None else 4
    backbone = replace(experiment.backbone, dim=32, depth=2, heads=2, ffn_hidden=48, position_grid=grid)
    objectives = ObjectiveConfigs({name: _small_head(config) for name, config in experiment.objectives.items()})
    large = 8 * patch if experiment.data.views.variants()[0].anchor_size else 0
    views = replace(
        experiment.data.views, global_size=4 * patch, local_size=2 * patch, local_count=2, anchor_size=large, sizes=()
    )
    data = replace(experiment.data, views=views, batch_size=4)
    return replace(experiment, data=data, backbone=backbone, objectives=objectives)


def _small_head(config: Any) -> Any:
    if getattr(config, "head", None) is None:
        return config
    return replace(config, head=replace(config.head, hidden=16, bottleneck=8, prototypes=24))


def test_the_recipes_of_the_readme_exist() -> None:
    assert set(recipes.names()) >= EXPECTED


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_survives_yaml(name: str, tmp_path: Path) -> None:
    config = recipes.find(name)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert from_plain(TrainConfig, read_yaml(tmp_path / "config.yaml")) == config
    assert recipes.find(str(tmp_path / "config.yaml")) == config
    assert config.experiment.recipe == name


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_names_its_source_command_and_expectation(name: str) -> None:
    module = __import__(f"dinokit.recipes.{name.replace('-', '_')}", fromlist=["_"])
    text = getattr(module, name.replace("-", "_")).__doc__
    for part in ("Source:", "Command:", "Hardware:", "Expected time", "xpected metric"):
        assert part in text, part
    assert f"dinokit pretrain {name} " in text


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_trains_a_step_at_a_tiny_size(name: str) -> None:
    for stage in recipes.find(name).experiment.all_stages:
        _train_a_step(shrunk(stage.experiment))


def _train_a_step(experiment: Experiment) -> None:
    trainer = Trainer(experiment, torch.device("cpu"))
    source = open_source("demo:fashion")
    loader = Loader(
        source,
        experiment.data.views,
        experiment.data.masks,
        experiment.data.pixels,
        patch_size=experiment.backbone.patch_size,
        batch=4,
        seed=0,
    )
    report = trainer.step([loader.build(0).views], step=experiment.optim.freeze_last_layer)
    assert report.finite
    assert all(value > 0 for key, value in report.values.items() if key.startswith("grad_norm/"))


@pytest.mark.parametrize("name", recipes.names())
def test_schedules_end_with_the_run(name: str) -> None:
    """A schedule written for another number of steps is the most common slip in a recipe."""
    experiment = recipes.find(name).experiment
    for schedule in (experiment.optim.lr, experiment.optim.weight_decay, experiment.momentum):
        if schedule.shape != "constant":
            assert schedule.length == experiment.steps


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'dinov3-vits16'"):
        recipes.find("dinov3-vits14")


def test_the_stages_of_the_7b_are_the_published_ones() -> None:
    pretrain, anchor, high_res = recipes.find("dinov3-vit7b16").experiment.all_stages
    assert [(stage.first, stage.last, stage.begin) for stage in (pretrain, anchor, high_res)] == [
        (0, 1_000_000, None),
        (1_000_000, 1_200_000, "continue"),
        (1_200_000, 1_230_000, "teacher"),
    ]
    gram = anchor.experiment.objectives["gram"]
    assert [gram.weight * gram.scale.at(step) for step in (0, 999, 5_000)] == [0, 2, 2]
    assert anchor.experiment.objectives["dino"].local_weight.at(999) == 0.5
    renewed = anchor.experiment.anchor
    assert renewed is not None
    assert [step for step in range(1, 200_001) if renewed.due(step)] == [10_000, 20_000, 30_000]
    assert high_res.experiment.objectives["gram"].weight == 1.5
    assert high_res.experiment.optim.lr.at(29_999) == 7.07e-5
    assert sum(size.share for size in high_res.experiment.data.views.sizes) == pytest.approx(1)


@pytest.mark.parametrize(
    "name", [name for name in recipes.names() if "high_res" in recipes.find(name).experiment.stages]
)
def test_high_resolution_is_the_same_without_the_gram_stage_before_it(name: str) -> None:
    whole = recipes.find(name)
    without = override(whole, {"stages.anchor": None}, hidden=HALVES)
    one, other = (each.experiment.all_stages[-1].experiment for each in (without, whole))
    assert one.data.views.variants() == other.data.views.variants()
    assert replace(one, data=other.data) == other


PUBLISHED = {  # from the papers and their released configurations; rates are base rates scaled by the batch
    "dinov3-vit7b16": {
        "data.batch_size": 4096,
        "optim.lr.peak": 5e-5 * 4 * 2,
        "optim.lr.warmup": 100_000,
        "optim.weight_decay.peak": 0.04,
        "optim.betas": [0.9, 0.99],
        "optim.layer_decay": 0.98,
        "optim.clip": 30.0,
        "optim.freeze_last_layer": 5_000,
        "momentum.peak": 0.994,
        "backbone.drop_path": 0.4,
        "objectives.dino.head.prototypes": 262_144,
        "objectives.ibot.head.prototypes": 98_304,
        "objectives.koleo.group": 16,
        "data.views.flip": 0.0,
        "data.views.global_size": 256,
        "data.views.local_size": 112,
    },
    "dino-vits16": {
        "data.batch_size": 1024,
        "optim.lr.peak": 5e-4 * 1024 / 256,
        "optim.lr.end": 1e-6,
        "optim.weight_decay.end": 0.4,
        "optim.freeze": "gradient",
        "optim.clip_per": "parameter",
        "momentum.peak": 0.996,
        "objectives.dino.targets": "centring",
        "objectives.dino.head.prototypes": 65_536,
        "data.views.local_count": 10,
        "data.views.global_scale": [0.25, 1.0],
    },
    "dinov2-vitb14": {
        "data.batch_size": 3072,
        "steps": 625_000,
        "optim.lr.peak": 2e-4 * (3072 / 1024) ** 0.5,
        "optim.lr.warmup": 100_000,
        "optim.weight_decay.end": 0.2,
        "optim.layer_decay": 1.0,
        "optim.patch_embed_lr": 0.2,
        "optim.freeze_last_layer": 1_250,
        "momentum.peak": 0.994,
        "backbone.drop_path": 0.4,
        "objectives.dino.head.prototypes": 131_072,
        "objectives.dino.head.bottleneck": 384,
        "objectives.ibot.head.bottleneck": 256,
        "objectives.dino.teacher_temperature.warmup": 37_500,
        "data.views.local_size": 98,
        "data.views.first.blur": 0.0,
        "data.views.second.blur": 0.9,
        "data.views.second.solarise": 0.2,
    },
    "dinov3-vitl16": {
        "data.batch_size": 2048,
        "steps": 125_000,
        "optim.lr.peak": 4 * 1e-3 * (2048 / 1024) ** 0.5,
        "optim.lr.warmup": 12_500,
        "optim.weight_decay.end": 0.4,
        "optim.layer_decay": 0.9,
        "optim.patch_embed_lr": 0.2,
        "optim.freeze_last_layer": 1_250,
        "optim.clip": 3.0,
        "momentum.peak": 0.992,
        "momentum.end": 1.0,
        "backbone.drop_path": 0.3,
        "backbone.layer_scale": 1e-5,
        "backbone.registers": 0,
        "objectives.dino.head.prototypes": 65_536,
        "objectives.koleo.weight": 0.1,
        "data.masks.ratio": [0.1, 0.5],
        "data.masks.probability": 0.5,
        "data.views.local_scale": [0.05, 0.32],
    },
}


@pytest.mark.parametrize(
    ("recipe", "key", "value"), [(recipe, *item) for recipe, row in PUBLISHED.items() for item in row.items()]
)
def test_a_recipe_has_the_published_values(recipe: str, key: str, value: Any) -> None:
    node = to_plain(recipes.find(recipe).experiment)
    for part in key.split("."):
        node = node[part]
    assert node == value if isinstance(value, str) else node == pytest.approx(value, rel=2e-3)


@pytest.mark.parametrize(("name", "share"), [("small-cpu", 2 / 3), ("dinov3-vits16", 1), ("dinov3-vitb16", 1)])
def test_a_fast_recipe_takes_three_quarters_of_its_steps_at_half_the_side(name: str, share: float) -> None:
    fast = recipes.find(f"{name}-fast").experiment
    small, full, *others = fast.all_stages
    lengths = {f"stages.{stage.name}.steps": stage.experiment.steps for stage in others}
    base = with_settings(recipes.find(name), {"steps": full.last, **lengths}).experiment
    pretraining = base.all_stages[0].experiment
    assert full.last == round(share * recipes.find(name).experiment.steps)
    assert small.experiment.steps == full.last * 3 // 4
    views, patch = pretraining.data.views, base.backbone.patch_size
    assert small.experiment.data.views.global_size == views.global_size // 2
    assert views.local_size / 2 <= small.experiment.data.views.local_size < views.local_size / 2 + patch
    assert full.begin == "continue"
    for kind in ("first", "second", "local"):
        seen = getattr(full.experiment.data.views, kind)
        assert seen.noise is not None
        assert replace(seen, noise=None) == getattr(views, kind)
    for objective, ended in small.experiment.objectives.items():
        if hasattr(ended, "teacher_temperature"):
            goes_on = full.experiment.objectives[objective].teacher_temperature
            assert goes_on.at(0) == goes_on.at(full.experiment.steps - 1) == ended.teacher_temperature.at(small.last)
    rate = pretraining.optim.lr
    assert small.experiment.optim.lr.at(small.last - 1) == full.experiment.optim.lr.at(0) == rate.peak
    assert full.experiment.optim.lr.length == full.experiment.steps
    for ours, theirs in zip(others, base.all_stages[1:], strict=True):  # the stages after it are those of the recipe
        assert replace(ours.experiment, recipe=name) == theirs.experiment
