"""Stages: what each changes and takes over, and that a run stopped in any of them ends with the same weights."""

import functools
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinokit import cli
from dinokit import config as configuration
from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import MODEL, RunFolder, header
from dinokit.core.files import read_jsonl
from dinokit.core.messages import UserError
from dinokit.core.numbers import constant
from dinokit.images.intensity import Pixels
from dinokit.models.architecture import build
from dinokit.objectives import gram
from dinokit.run import anchoring, engine
from dinokit.run.handover import carried_over
from dinokit.run.replay import replay
from dinokit.training.config import TrainConfig
from dinokit.training.course import Anchor, Changes, Stage, Stages, Start
from tests.run.test_engine import assert_same, config, losses


def staged(photos: Path, *, begin: str = "continue", source: str = "start", **runtime: object) -> TrainConfig:
    """Three steps of pretraining, three with Gram, three at a higher resolution that begin from the teacher."""
    base = config(photos, steps=3, **runtime)
    stages = {
        "anchor": Stage(
            steps=3,
            begin=begin,  # type: ignore[arg-type]
            changes=Changes(
                configuration.to_plain(
                    {
                        "objectives": {"gram": gram.Config()},
                        "anchor": Anchor(source=source, candidates=3, images=4, every=2, most=1),
                        "data": {"views": {"anchor_size": 32}},
                        "optim": {"lr": constant(3e-4)},
                    }
                )
            ),
        ),
        "high_res": Stage(
            steps=3,
            begin="teacher",
            changes=Changes(
                {
                    "data": {
                        "views": {
                            "sizes": [
                                {"global_size": 16, "local_size": 8, "anchor_size": 32},
                                {"global_size": 24, "local_size": 8, "anchor_size": 32},
                            ]
                        }
                    },
                    "anchor": {"every": 0, "most": 0},
                }
            ),
        ),
    }
    return replace(base, experiment=replace(base.experiment, stages=Stages(stages)))


def anchored(photos: Path, changed: dict[str, object], *, source: str = "start", **runtime: object) -> TrainConfig:
    """Three steps of pretraining and one with Gram, but for what is changed."""
    shorter = {"stages.anchor.steps": 1, "stages.high_res": None} | changed
    return configuration.override(staged(photos, source=source, **runtime), shorter, hidden=("experiment", "runtime"))


def test_the_timeline_and_the_settings_of_each_stage(photos: Path) -> None:
    stages = staged(photos).experiment.all_stages
    assert [(stage.name, stage.first, stage.last, stage.begin) for stage in stages] == [
        ("pretrain", 0, 3, None),
        ("anchor", 3, 6, "continue"),
        ("high_res", 6, 9, "teacher"),
    ]
    pretrain, anchor, high_res = (stage.experiment for stage in stages)
    assert "gram" not in pretrain.objectives
    assert anchor.optim == replace(pretrain.optim, lr=constant(3e-4))
    assert high_res.optim == anchor.optim  # of the stage before, not of the first
    assert high_res.objectives == anchor.objectives
    assert [size.global_size for size in high_res.data.views.sizes] == [16, 24]


def test_stages_go_through_yaml_and_take_dotted_settings(photos: Path, tmp_path: Path) -> None:
    whole = staged(photos)
    file = tmp_path / "config.yaml"
    file.write_text(configuration.to_yaml(whole))
    assert configuration.from_plain(TrainConfig, configuration.read_yaml(file)) == whole
    longer = configuration.override(
        whole,
        {"stages.anchor.steps": 5, "stages.anchor.changes.objectives.gram.weight": 1.5, "stages.high_res": None},
        hidden=("experiment", "runtime"),
    )
    (_, anchor) = longer.experiment.all_stages
    assert anchor.last == 8
    assert anchor.experiment.objectives["gram"].weight == 1.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optim": {"lrr": 1}}, "stages.wrong: .*optim.lrr"),
        ({"backbone": {"dim": 32}}, "stages.wrong: backbone.dim cannot change from 16 to 32"),
        ({"objectives": {"ibot": {"head": None}}}, "stages.wrong: objectives.ibot.head cannot change"),
        (
            {"data": {"views": {"global_size": 18}}},
            "global_size 18 is not a multiple of the patch size 4; use 16 or 20",
        ),
    ],
)
def test_a_mistake_in_a_stage_is_said_before_the_first(photos: Path, changes: dict[str, object], said: str) -> None:
    base = config(photos).experiment
    with pytest.raises(UserError, match=said):
        replace(base, stages=Stages({"wrong": Stage(steps=1, changes=Changes(changes))}))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"stages.anchor": {}}, "experiment.stages.anchor.steps is missing; give it a value"),
        ({"stages.anchor.steps": 0}, "experiment.stages.anchor.steps must be at least 1, got 0"),
        ({"stages.anchor.begin": 3}, "setting 'experiment.stages.anchor.begin': expected one of continue, teacher"),
        ({"objectives.dino.weight": -1}, "experiment.objectives.dino.weight must be at least 0, got -1"),
        ({"objectives.dino.weight": "a"}, "setting 'experiment.objectives.dino.weight': expected a finite number"),
    ],
)
def test_a_setting_of_a_part_is_called_by_the_name_of_the_part(
    photos: Path, setting: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        configuration.override(staged(photos), setting, hidden=("experiment", "runtime"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Callable[[str], Path]:
    """Give the run of all stages that nobody stopped, trained once for each source of its anchor.

    Of "start" all steps are kept, of "auto" those alone that it compares.
    """

    @functools.cache
    def train(source: str) -> Path:
        run = tmp_path_factory.mktemp("whole") / source
        kept = {"checkpoint_every": 1, "keep": 9} if source == "start" else {"checkpoint_every": 100}
        engine.pretrain(staged(photos, source=source, **kept), run)
        return run

    return train


# auto: chosen again at the boundary; a stop between two candidates leaves a checkpoint that is none
@pytest.mark.parametrize(
    ("source", "stop"),
    [
        ("auto", 5),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("start", 2), ("auto", 3), ("start", 4), ("auto", 6), ("start", 8))
        ),
    ],
)
def test_a_run_stopped_in_any_stage_ends_with_the_same_weights(
    photos: Path, whole: Callable[[str], Path], tmp_path: Path, source: str, stop: int
) -> None:
    run = whole(source)

    def kill(step: int, path: Path) -> None:
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(staged(photos, source=source, checkpoint_every=1), tmp_path, on_checkpoint=kill)
    assert RunFolder(tmp_path).steps(with_state=True)[-1] == stop
    engine.pretrain(staged(photos, source=source, checkpoint_every=1), tmp_path)
    assert losses(run) == losses(tmp_path)
    assert_same(run, tmp_path)


def test_the_schedules_count_the_steps_of_the_stage_and_the_data_go_on(
    whole: Callable[[str], Path],
) -> None:
    rates = {line["step"]: line["lr"] for line in read_jsonl(whole("start") / "metrics.jsonl")}
    assert rates[4] == rates[9] == 3e-4 != rates[3]


def test_continuing_keeps_moments_and_heads_and_beginning_from_the_teacher_does_not() -> None:
    before = {
        "backbone.student.w": torch.tensor(1.0),
        "backbone.teacher.w": torch.tensor(2.0),
        "objectives.dino.head.student.w": torch.tensor(3.0),
        "objectives.dino.head.teacher.w": torch.tensor(4.0),
        "objectives.dino.targets.centre": torch.tensor(5.0),
        "optimizer.backbone.w.exp_avg": torch.tensor(6.0),
    }
    names = [name for name in before if not name.startswith("optimizer")]
    fresh = {name: torch.tensor(0.0) for name in [*names, "objectives.new.head.student.w"]}
    goes_on = {name: float(value) for name, value in carried_over(before, fresh, begin="continue").items()}
    assert goes_on == {name: float(value) for name, value in before.items()} | {"objectives.new.head.student.w": 0.0}
    anew = {name: float(value) for name, value in carried_over(before, fresh, begin="teacher").items()}
    assert list(anew.values()) == [2.0, 2.0, 4.0, 4.0, 5.0, 0.0]
    assert "optimizer.backbone.w.exp_avg" not in anew


def test_a_stage_runs_alone_from_a_run_a_checkpoint_or_a_model(photos: Path, first: Path, tmp_path: Path) -> None:
    anchor = replace(staged(photos).experiment.all_stages[1].experiment, steps=1)
    base = config(photos, steps=1)
    for name, source in (("run", first), ("checkpoint", first / "checkpoints" / "3")):
        alone = replace(base, experiment=replace(anchor, start=Start(source=str(source), begin="continue")))
        engine.pretrain(alone, tmp_path / name)
        # other images, for these follow the step of the run; but the anchor is the same teacher
        begun = load_file(tmp_path / name / "checkpoints" / "0" / "model.safetensors")
        ended = load_file(first / "checkpoints" / "3" / "model.safetensors")
        assert all(torch.equal(begun[key], ended[key]) for key in ended)
    model = replace(base, experiment=replace(anchor, start=Start(source=str(first / "model.safetensors"))))
    engine.pretrain(model, tmp_path / "model")
    begun = load_file(tmp_path / "model" / "checkpoints" / "0" / "model.safetensors")
    assert all(torch.equal(begun[key], ended[key]) for key in ended)


def test_a_licence_goes_with_what_is_learnt_from_its_weights(photos: Path, first: Path, tmp_path: Path) -> None:
    source, backbone = tmp_path / "licensed.safetensors", load(first)
    about = header(backbone.config, backbone.pixels, step=0, licence="Some License")
    save_file(load_file(first / "model.safetensors"), source, about)
    base = config(photos, steps=2, checkpoint_every=1)
    begun = replace(base, experiment=base.experiment.alone("", start=str(source)))

    def kill(step: int, path: Path) -> None:
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(begun, tmp_path / "run", on_checkpoint=kill)
    engine.pretrain(begun, tmp_path / "run")  # goes on from what it has kept
    more = replace(base, experiment=base.experiment.alone("", start=str(tmp_path / "run")))
    engine.pretrain(more, tmp_path / "more")
    staying = replace(begun, experiment=replace(begun.experiment, stages=staged(photos).experiment.stages))
    engine.pretrain(staying, tmp_path / "staged")
    assert [load(tmp_path / name).licence for name in ("run", "more", "staged")] == ["Some License"] * 3
    assert load(first).licence is None


def test_what_a_run_cannot_begin_with_is_said(photos: Path, first: Path, tmp_path: Path) -> None:
    base = config(photos, steps=1)
    model = str(first / "model.safetensors")
    starting = replace(base.experiment, start=Start(source=model, begin="continue"))
    with pytest.raises(UserError, match="holds no training state to go on with; .*--start.begin teacher"):
        engine.pretrain(replace(base, experiment=starting), tmp_path / "run")
    wider = replace(base.experiment, backbone=replace(base.experiment.backbone, dim=32), start=Start(source=model))
    with pytest.raises(
        UserError,
        match=r"is another network than .*--backbone auto, which is --backbone.dim 16$",
    ):
        engine.pretrain(replace(base, experiment=wider), tmp_path / "wider")


@pytest.mark.parametrize("begin", ["continue", "teacher"])
def test_a_state_that_is_not_finite_is_no_beginning_where_it_is_used(
    photos: Path, first: Path, tmp_path: Path, begin: Literal["continue", "teacher"]
) -> None:
    base = config(photos, steps=1)
    run = RunFolder(shutil.copytree(first, tmp_path / "other"))
    state, clock = run.load(3)
    state["backbone.student.cls_token"][..., 1] = torch.nan
    run.save(3, state=state, clock=clock, models={MODEL: (load_file(run.model), {})}, keep=1)
    starting = replace(base.experiment, start=Start(source=str(run.path), begin=begin))
    refused = pytest.raises(UserError, match="NaN or infinite numbers in backbone.student.cls_token")
    with refused if begin == "continue" else nullcontext():  # the teacher is whole
        engine.pretrain(replace(base, experiment=starting), tmp_path / "run")


def test_a_step_of_a_later_stage_is_replayed(photos: Path, whole: Callable[[str], Path]) -> None:
    run = whole("start")
    logged = losses(run)
    for step in (4, 6, 7, 9):
        found = replay(RunFolder(run), staged(photos), step, device="cpu")
        assert found.report.values["loss"] == logged[step], step


def test_a_step_of_a_stage_that_the_run_has_not_reached_is_not_made_up(photos: Path, tmp_path: Path) -> None:
    def stop(step: int, path: Path) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(staged(photos), tmp_path / "run", on_checkpoint=stop)
    with pytest.raises(UserError, match="in the same stage, that is from 3 to 3; .* keeps states of"):
        replay(RunFolder(tmp_path / "run"), staged(photos), 4, device="cpu")


def test_an_anchor_that_is_not_there_is_said_before_the_first_stage(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model at /not/there"):
        engine.pretrain(staged(photos, source="/not/there"), tmp_path / "run")
    assert not losses(tmp_path / "run")


def test_an_anchor_may_be_a_step_of_the_run_or_a_model(photos: Path, first: Path, tmp_path: Path) -> None:
    for source, wanted in ((1, "1"), (str(first / "checkpoints" / "2"), "2")):
        run = tmp_path / f"run{wanted}"
        changed = {"stages.anchor.changes.anchor": {"source": source, "every": 0, "most": 0}}
        engine.pretrain(anchored(photos, changed, checkpoint_every=1), run)
        state = load_file(run / "checkpoints" / "4" / "state.safetensors")
        model = load_file(first / "checkpoints" / wanted / "model.safetensors")  # the same run so far
        assert all(
            torch.equal(state[f"anchor.{name}"], value) for name, value in model.items() if "periods" not in name
        )


def test_a_step_of_another_run_must_be_one_that_it_kept(photos: Path, first: Path, tmp_path: Path) -> None:
    first = shutil.copytree(first, tmp_path / "first")
    shutil.rmtree(first / "checkpoints" / "1")
    changed: dict[str, object] = {"stages.anchor.changes.anchor": {"source": 1, "every": 0, "most": 0}}
    whole = configuration.override(staged(photos), changed, hidden=("experiment", "runtime"))
    alone = replace(whole, experiment=whole.experiment.alone("anchor", start=str(first)))
    with pytest.raises(UserError, match="keeps no teacher of step 1; anchor.source may be 0, 2, 3"):
        engine.pretrain(alone, tmp_path / "run")


def test_another_network_is_no_beginning(photos: Path, first: Path, tmp_path: Path) -> None:
    deeper = configuration.override(config(photos, steps=1), {"backbone.depth": 3}, hidden=("experiment", "runtime"))
    begun = replace(deeper, experiment=replace(deeper.experiment, start=Start(source=str(first))))
    with pytest.raises(UserError, match="--backbone auto, which is --backbone.depth 2"):
        engine.pretrain(begun, tmp_path / "run")


def test_a_start_that_failed_leaves_the_folder_to_the_next(photos: Path, tmp_path: Path) -> None:
    base = config(photos, steps=1)
    begun = replace(base, experiment=replace(base.experiment, start=Start(source=str(tmp_path / "mistaken"))))
    with pytest.raises(UserError, match="mistaken"):
        engine.pretrain(begun, tmp_path / "run")
    engine.pretrain(base, tmp_path / "run")
    with pytest.raises(UserError, match="holds another experiment"):
        engine.pretrain(begun, tmp_path / "run")


def test_a_damaged_beginning_is_refused_by_its_checksum(photos: Path, first: Path, tmp_path: Path) -> None:
    first = shutil.copytree(first, tmp_path / "first")
    state = first / "checkpoints" / "3" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-8] + b"overwrit")
    base = config(photos, steps=1)
    begun = replace(base, experiment=replace(base.experiment, start=Start(source=str(first))))
    with pytest.raises(UserError, match="checkpoints/3 is damaged .*begin with another step"):
        engine.pretrain(begun, tmp_path / "run")


def test_an_anchor_in_the_checkpoint_is_not_looked_for_again(photos: Path, first: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(first / "model.safetensors", tmp_path))
    settings = anchored(photos, {"stages.anchor.steps": 2}, source=str(model), checkpoint_every=1)

    def kill(step: int, path: Path) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(settings, tmp_path / "run", on_checkpoint=kill)
    model.unlink()
    engine.pretrain(settings, tmp_path / "run")
    assert RunFolder(tmp_path / "run").steps()[-1] == 5


def test_the_best_of_patches_may_have_a_locality_below_zero(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = iter((-0.3, -0.1, -0.2, -0.1))
    monkeypatch.setattr(anchoring, "_signs", lambda *_: {"locality": next(worse)})
    settings = anchored(photos, {}, source="auto", checkpoint_every=100)
    run = RunFolder(tmp_path / "run")
    engine.pretrain(settings, run.path)
    assert json.loads(run.anchor.read_text())["chosen"] == str(run.checkpoint(2))


def test_auto_takes_the_earliest_teacher_whose_patches_are_about_the_best_of_those_the_run_keeps(
    photos: Path, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    settings, run = staged(photos, source="auto"), RunFolder(whole("auto"))
    assert settings.experiment.candidates() == {1, 2, 3, 6, 4}  # of both later stages
    note = json.loads(run.anchor.read_text())
    without = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    without.anchor.unlink()
    replay(without, settings, 7, device="cpu")  # chooses again, and only reads
    assert not without.anchor.exists()
    local = {int(step): values["locality"] for step, values in note["candidates"].items()}
    assert sorted(local) == [2, 4, 6]
    best = min(step for step, value in local.items() if value >= 0.98 * max(local.values()))
    assert note["chosen"] == str(run.checkpoint(best))
    state, model = (
        load_file(file)
        for file in (run.checkpoint(9) / "state.safetensors", Path(note["chosen"]) / "model.safetensors")
    )
    assert all(torch.equal(state[f"anchor.{name}"], value) for name, value in model.items() if "periods" not in name)


def test_auto_leaves_out_a_teacher_that_is_damaged(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = anchored(photos, {}, source="auto", checkpoint_every=1, keep=1)
    run = RunFolder(tmp_path / "run")

    def stop(step: int, path: Path) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(settings, run.path, on_checkpoint=stop)
    (run.checkpoint(1) / "model.safetensors").write_bytes(b"half")
    engine.pretrain(settings, run.path)
    assert f"not compared: {run.checkpoint(1)}" in capsys.readouterr().err
    assert run.steps()[-1] == 4


def test_auto_without_a_past_and_a_step_that_is_to_come_are_refused(photos: Path, tmp_path: Path) -> None:
    anchored = staged(photos, source="auto").experiment.all_stages[1].experiment
    with pytest.raises(UserError, match="auto chooses from the checkpoints of earlier stages, and there is none"):
        engine.pretrain(replace(config(photos), experiment=anchored), tmp_path / "run")
    with pytest.raises(
        UserError, match="stages.anchor: anchor.source 4 is a step after the stage begins; give one up to 3"
    ):
        staged(photos, source="4")


def test_a_network_is_taken_from_the_weights_and_a_mask_token_that_they_lack_is_learnt(
    photos: Path, tmp_path: Path
) -> None:
    base = config(photos, steps=1)
    network = replace(base.experiment.backbone, dim=8, heads=1, mask_token=False)
    backbone = build(network, seed=3)
    save_file(backbone.state_dict(), tmp_path / "w.safetensors", header(network, Pixels(), step=0))
    (tmp_path / "config.yaml").write_text(configuration.to_yaml(base))
    words = [str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run"), "--eval.tasks", "null"]
    weights = ["--from", str(tmp_path / "w.safetensors"), "--backbone", "auto", "--backbone.drop_path", "0.1"]
    assert cli.run(["pretrain", *words, *weights, "--backbone.mask_token", "true"]) == 0
    written = configuration.from_plain(TrainConfig, configuration.read_yaml(tmp_path / "run" / "config.yaml"))
    assert written.experiment.backbone == replace(network, drop_path=0.1, mask_token=True)
    first = load_file(tmp_path / "run" / "checkpoints" / "0" / "model.safetensors")
    assert torch.equal(first["patch_embed.proj.weight"], backbone.state_dict()["patch_embed.proj.weight"])


def test_auto_wants_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert (
        cli.run(["pretrain", "demo", "--data", "demo:fashion", "--out", str(tmp_path / "r"), "--backbone", "auto"]) == 2
    )
    assert "give them with --from" in capsys.readouterr().err
