"""Settings of a run: schedules are shares of its steps."""

from pathlib import Path
from typing import Any

import pytest

from dinokit import recipes
from dinokit.config import from_plain, to_plain
from dinokit.core.messages import UserError
from dinokit.core.numbers import Schedule
from dinokit.training.config import TrainConfig, with_full_paths, with_settings


def lengths(schedule: Schedule) -> tuple[int, int, int, int]:
    return schedule.freeze, schedule.warmup, schedule.hold, schedule.decay


@pytest.mark.parametrize("name", recipes.names())
def test_the_published_number_of_steps_changes_nothing(name: str) -> None:
    recipe = recipes.find(name)
    steps: dict[str, Any] = {"steps": recipe.experiment.steps}
    steps |= {f"stages.{stage}.steps": each.steps for stage, each in recipe.experiment.stages.items()}
    assert with_settings(recipe, steps) == recipe


@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.parametrize("steps", [1, 7, 400, 3_000_000])
def test_every_schedule_ends_where_it_ended_in_the_run(name: str, steps: int) -> None:
    recipe = recipes.find(name)
    found = with_settings(recipe, {"experiment.steps": steps}).experiment
    for each in ("lr", "weight_decay"):
        before, after = getattr(recipe.experiment.optim, each), getattr(found.optim, each)
        assert after.length == round(before.length * steps / recipe.experiment.steps)
        assert (after.peak, after.end, after.start) == (before.peak, before.end, before.start)
    assert [stage.steps for stage in found.stages.values()] == [
        each.steps for each in recipe.experiment.stages.values()
    ]


def test_parts_keep_their_shares_and_what_is_given_stays() -> None:
    demo = recipes.find("demo")
    assert lengths(demo.experiment.optim.lr) == (0, 100, 1233, 517)
    assert lengths(with_settings(demo, {"steps": 185}).experiment.optim.lr) == (0, 10, 123, 52)
    given = with_settings(demo, {"steps": 185, "optim.lr.warmup": 30}).experiment.optim.lr
    assert (given.warmup, given.length) == (30, 185)
    assert lengths(
        with_settings(demo, {"steps": 12, "optim.lr.warmup": 3, "optim.lr.decay": 9}).experiment.optim.lr
    ) == (0, 3, 0, 9)
    assert lengths(
        with_settings(demo, {"steps": demo.experiment.steps, "optim.lr.warmup": 450}).experiment.optim.lr
    ) == (0, 450, 986, 414)  # 1400 left, in shares 1233 and 517 of 1750
    assert lengths(with_settings(demo, {"optim.lr.warmup": 30}).experiment.optim.lr) == (0, 30, 1233, 517)


def test_a_stage_scales_alone_with_its_own_steps() -> None:
    recipe = recipes.find("dinov3-vit7b16")
    short = with_settings(recipe, {"stages.anchor.steps": 2_000})
    assert short.experiment.optim == recipe.experiment.optim
    _, before, _ = recipe.experiment.all_stages
    _, after, last = short.experiment.all_stages
    assert lengths(after.experiment.objectives["gram"].scale) == (0, 0, 0, 10)
    assert before.experiment.anchor is not None
    assert after.experiment.anchor is not None
    assert (after.experiment.anchor.first, after.experiment.anchor.every) == (100, 100)
    assert last.experiment == recipe.experiment.all_stages[2].experiment


def test_an_anchor_that_is_a_step_of_the_run_moves_with_it() -> None:
    anchor = with_settings(recipes.find("dinov3-vit7b16"), {"steps": 1_000}).experiment.all_stages[1].experiment.anchor
    assert anchor is not None
    assert anchor.source == "200"


def test_other_counts_of_steps_scale_too_and_never_vanish() -> None:
    large = recipes.find("dinov3-vitl16")
    short: TrainConfig = with_settings(large, {"steps": 1_000})
    assert short.experiment.optim.freeze_last_layer == 10
    assert short.experiment.objectives["dino"].teacher_temperature.warmup == 300
    assert with_settings(large, {"steps": 10}).experiment.optim.freeze_last_layer == 1


def test_what_is_measured_is_written_by_comma() -> None:
    settings = {"eval.tasks": "knn,segmentation", "eval.every": 50, "eval.data": "photos,segmentation=pairs"}
    measuring = with_settings(recipes.find("demo"), settings).runtime.eval
    assert measuring.tasks == ("knn", "segmentation")
    assert [measuring.source(task) for task in measuring.tasks] == ["photos", "pairs"]
    assert [step for step in range(120) if measuring.saves(step)] == [0, 50, 100]
    full = with_full_paths(with_settings(recipes.find("demo"), settings | {"data.source": "x"})).runtime.eval
    assert [full.source(task) for task in full.tasks] == [str(Path("photos").absolute()), str(Path("pairs").absolute())]
    assert with_settings(recipes.find("demo"), {"eval.tasks": None}).runtime.eval.tasks == ()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"eval.tasks": None, "eval.every": 5}, "nothing is measured"),
        ({"eval.tasks": "auto,knn"}, "auto chooses"),
        ({"eval.device": "cpu"}, "name evaluations by eval.tasks"),
        ({"eval.tasks": "knn", "eval.data": "photos,logerg=others"}, "got photos and logerg=others"),
        ({"eval.tasks": "knn,,logreg"}, "expected words by comma"),
    ],
)
def test_settings_of_measuring_that_contradict_each_other_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_settings(recipes.find("demo"), settings)


@pytest.mark.parametrize(("before", "now"), [(True, ("auto",)), (False, ())])
def test_an_early_switch_of_measuring_means_what_it_meant(before: bool, now: tuple[str, ...]) -> None:
    plain = to_plain(recipes.find("demo"))
    del plain["runtime"]["eval"]
    plain["runtime"]["evaluate"] = before
    assert from_plain(TrainConfig, plain).runtime.eval.tasks == now


def test_a_retired_setting_loads_at_the_value_it_always_had_and_is_refused_at_another() -> None:
    plain = to_plain(recipes.find("small-cpu"))
    known = from_plain(TrainConfig, plain)
    plain["experiment"]["data"]["masks"]["roll"] = False
    plain["experiment"]["stages"]["anchor"]["changes"]["objectives"]["gram"]["scope"] = "image"
    assert from_plain(TrainConfig, plain) == known
    plain["experiment"]["stages"]["anchor"]["changes"]["objectives"]["gram"]["scope"] = "batch"
    with pytest.raises(UserError, match=r"objectives\.gram\.scope is retired and was always image; leave it out$"):
        from_plain(TrainConfig, plain)
