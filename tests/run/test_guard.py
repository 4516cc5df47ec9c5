"""Steps that are not finite: nothing is touched, all is written down, and a run that diverges goes back by itself."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from dinokit.checkpoints.store import RunFolder
from dinokit.core.files import read_jsonl
from dinokit.core.messages import RunError, UserError
from dinokit.core.numbers import constant
from dinokit.run import engine
from dinokit.run.replay import replay
from dinokit.sources.source import open_source
from dinokit.training.config import Rollback, TrainConfig
from dinokit.training.step import Report, Trainer
from dinokit.views.multicrop import Views
from tests.run.test_engine import assert_same, config, loader, losses
from tests.training.test_step import CPU, make_views, tiny


def poison(monkeypatch: pytest.MonkeyPatch, bad: Callable[[Trainer, int], bool]) -> None:
    """Put one infinite pixel into the crops of chosen steps, as a broken reader would."""
    original = Trainer.step

    def step(self: Trainer, micro_batches: list[Views], *, step: int) -> Report:
        if bad(self, step):
            crops = micro_batches[-1].global_crops.clone()
            crops[0, 0, 0, 0, 0] = torch.inf
            micro_batches = [*micro_batches[:-1], replace(micro_batches[-1], global_crops=crops)]
        return original(self, micro_batches, step=step)

    monkeypatch.setattr(Trainer, "step", step)


@pytest.mark.parametrize("targets", ["sinkhorn", "centring"])
def test_a_skipped_step_touches_no_weight_moment_teacher_or_centre(targets: str) -> None:
    experiment = tiny()
    objectives = {**experiment.objectives, "dino": replace(experiment.objectives["dino"], targets=targets)}
    trainer = Trainer(replace(experiment, objectives=objectives), CPU)  # type: ignore[arg-type]
    assert trainer.step([make_views()], step=0).finite
    before = {name: value.clone() for name, value in trainer.state().items()}
    views = make_views()
    views.local_crops[0, 0, 0, 0, 0] = torch.nan
    report = trainer.step([make_views(), views], step=1)
    assert not report.finite
    assert report.fault.startswith("not finite are loss, loss/dino")
    after = trainer.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert trainer.step([make_views()], step=2).finite


def test_bad_steps_at_random_are_all_that_is_lost(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = set(numpy.random.default_rng(0).choice(8, 3, replace=False).tolist())
    poison(monkeypatch, lambda _, step: step in chosen)
    engine.pretrain(config(photos, steps=8, checkpoint_every=3), tmp_path / "run")
    listed = read_jsonl(tmp_path / "run" / "bad_steps.jsonl")
    assert {line["step"] - 1 for line in listed} == chosen
    learned = {line["step"] for line in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "loss" in line}
    assert learned == {step + 1 for step in range(8) if step not in chosen}
    assert all(len(line["images"]) == 4 and line["lr_factor"] == 1 for line in listed)
    assert RunFolder(tmp_path / "run").clock(8).rollbacks == 0


def diverges(trainer: Trainer, step: int) -> bool:
    return step >= 5 and trainer.lr_factor > 0.3


@pytest.fixture(scope="module")
def went_back(tmp_path_factory: pytest.TempPathFactory, kept_photos: Path) -> Path:
    """A run that diverges until it has gone back twice."""
    run = tmp_path_factory.mktemp("diverged") / "run"
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, diverges)
        engine.pretrain(config(kept_photos, steps=8, rollback=Rollback(after=2)), run)
    return run


def test_a_run_that_diverges_goes_back_lowers_its_rate_and_ends(went_back: Path) -> None:
    run = went_back
    assert [(line["step"], line["rollbacks"]) for line in read_jsonl(run / "bad_steps.jsonl")] == [
        (6, 0),
        (7, 0),
        (6, 1),
        (7, 1),
    ]
    clock = RunFolder(run).clock(8)
    assert (clock.rollbacks, clock.lr_factor) == (2, 0.25)
    rates = {line["step"]: line["lr"] for line in read_jsonl(run / "metrics.jsonl") if "lr" in line}
    assert rates[4] == pytest.approx(1e-3)
    assert rates[5] == pytest.approx(0.25e-3)
    assert sorted(rates) == list(range(1, 9))


def test_what_a_run_went_back_for_is_remembered_by_the_next_start(
    photos: Path,
    went_back: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poison(monkeypatch, diverges)
    settings = config(photos, steps=8, rollback=Rollback(after=2))

    def crash(step: int, path: Path) -> None:
        if step == 4 and RunFolder(tmp_path / "broken").clock(4).rollbacks == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(settings, tmp_path / "broken", on_checkpoint=crash)
    engine.pretrain(settings, tmp_path / "broken")
    assert_same(went_back, tmp_path / "broken")
    listed = [read_jsonl(run / "bad_steps.jsonl") for run in (went_back, tmp_path / "broken")]
    assert listed[0] == listed[1]


def test_a_bad_last_step_ends_a_run_like_any_other(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, lambda _, step: step == 5)
    seen: list[int] = []
    engine.pretrain(config(photos), tmp_path / "run", on_checkpoint=lambda step, _: seen.append(step))
    assert RunFolder(tmp_path / "run").steps()[-1] == 6
    assert seen == [0, 2, 4, 6]
    assert RunFolder(tmp_path / "run").clock(6).bad_steps == 1


def test_a_run_that_goes_back_to_its_start_forgets_its_moments(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = config(photos).experiment
    trainer = Trainer(experiment, CPU)
    fresh = {name: value.clone() for name, value in trainer.state().items()}
    views = Views(torch.randn(2, 4, 3, 16, 16), torch.randn(2, 4, 3, 8, 8), torch.zeros(2, 4, 16, dtype=torch.bool))
    assert trainer.step([views], step=0).finite
    trainer.load_state(fresh)
    assert trainer.state().keys() == fresh.keys()


def poison_batches(monkeypatch: pytest.MonkeyPatch, settings: TrainConfig, numbers: set[int]) -> None:
    """Make the batches of chosen steps bad, whenever they come."""
    fed = loader(settings, Trainer(settings.experiment, CPU))
    bad = [fed.build(number, 1).views.on(CPU).global_crops for number in numbers]
    original = Trainer.step

    def step(self: Trainer, micro_batches: list[Views], *, step: int) -> Report:
        last = micro_batches[-1]
        if any(torch.equal(last.global_crops, each) for each in bad):
            crops = last.global_crops.clone()
            crops[0, 0, 0, 0, 0] = torch.inf
            micro_batches = [*micro_batches[:-1], replace(last, global_crops=crops)]
        return original(self, micro_batches, step=step)

    monkeypatch.setattr(Trainer, "step", step)


def test_batches_that_are_bad_at_any_rate_are_passed_over(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(photos, steps=8, rollback=Rollback(after=3, most=1))
    poison_batches(monkeypatch, settings, {4, 5, 6})
    engine.pretrain(settings, tmp_path / "whole")
    clock = RunFolder(tmp_path / "whole").clock(8)
    assert (clock.rollbacks, clock.bad_steps, clock.ahead) == (1, 3, 3)  # from step 4 on with the batches from 7 on

    def crash(step: int, path: Path) -> None:
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(settings, tmp_path / "broken", on_checkpoint=crash)
    engine.pretrain(settings, tmp_path / "broken")
    assert_same(tmp_path / "whole", tmp_path / "broken")


def test_bad_steps_count_also_where_good_ones_come_between(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, lambda trainer, step: step % 2 == 1 and trainer.lr_factor == 1)
    engine.pretrain(config(photos, steps=8, rollback=Rollback(after=3)), tmp_path / "run")
    clock = RunFolder(tmp_path / "run").clock(8)
    assert (clock.rollbacks, clock.bad_steps) == (1, 3)


def test_a_checkpoint_that_is_due_on_a_bad_step_comes_with_the_next_good_one(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, lambda _, step: step in (3, 4))
    engine.pretrain(config(photos, steps=9, checkpoint_every=4), tmp_path / "run")
    assert RunFolder(tmp_path / "run").steps() == [0, 6, 8, 9]


def test_a_bad_step_says_where_each_of_its_images_came_from(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, lambda _, step: step == 2)
    engine.pretrain(config(photos), tmp_path / "run")
    (line,) = read_jsonl(tmp_path / "run" / "bad_steps.jsonl")
    source = open_source(str(photos))
    assert all(source.key(image["index"]) == image["key"] for image in line["images"])
    assert [(image["rank"], image["micro"]) for image in line["images"]] == [(0, 0), (0, 0), (0, 1), (0, 1)]


def test_replay_says_what_is_not_as_it_was(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, lambda trainer, step: step >= 5 and trainer.lr_factor == 1)
    settings = config(photos, steps=8, keep=9, rollback=Rollback(after=2))
    engine.pretrain(settings, tmp_path / "run")
    (photos / "0.png").rename(photos / "renamed.png")
    capsys.readouterr()
    replay(RunFolder(tmp_path / "run"), settings, 6)
    said = capsys.readouterr().err
    assert "taken before the run went back" in said
    assert "has other images than at the run's last start" in said


def test_after_the_last_try_it_stops_and_names_the_step_to_look_at(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poison(monkeypatch, lambda _, step: step >= 3)
    with pytest.raises(RunError, match=r"2 of the last \d steps .* after 1 times .* saved is step 2; .*replay"):
        engine.pretrain(config(photos, steps=8, rollback=Rollback(after=2, most=1)), tmp_path / "run")


def diverging(photos: Path) -> TrainConfig:
    """Rates that double the weights until float32 ends, so that a step is bad without any help."""
    settings = config(photos, steps=60, checkpoint_every=4, rollback=Rollback(most=0, after=1), keep=50)
    experiment = settings.experiment
    return replace(
        settings, experiment=replace(experiment, optim=replace(experiment.optim, lr=constant(1e30), clip=None))
    )


def test_a_bad_step_is_replayed_from_its_own_state_without_touching_the_run(
    photos: Path,
    tmp_path: Path,
) -> None:
    settings = diverging(photos)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(RunError):
        engine.pretrain(settings, run.path)
    (noted,) = read_jsonl(run.bad_steps)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    found = replay(run, settings, noted["step"])
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert found.report.fault == noted["fault"]
    assert [each.image for each in found.crops] == [image["key"] for image in noted["images"]]
    assert found.start < noted["step"]
    assert found.first or found.parameters
    assert not any(each.odd for each in found.crops)


def test_a_finite_step_replays_to_the_numbers_of_the_log(kept_photos: Path, whole: Callable[..., Path]) -> None:
    run = whole(keep=9)
    found = replay(RunFolder(run), config(kept_photos), 4)
    assert found.start == 2
    assert found.report.values["loss"] == losses(run)[4]
    assert (found.first, found.parameters) == ("", ())


@pytest.mark.parametrize(
    ("step", "complaint"),
    [
        (0, "must be 1 to 6"),
        (7, "must be 1 to 6"),
        (2, "whole state before it, in the same stage, that is from 0 to 1; .* keeps states of 4, 6"),
    ],
)
def test_a_step_that_cannot_be_replayed_is_a_mistake_in_one_line(
    kept_photos: Path,
    whole: Callable[[], Path],
    step: int,
    complaint: str,
) -> None:
    with pytest.raises(UserError, match=complaint):
        replay(RunFolder(whole()), config(kept_photos), step)


def test_replay_passes_over_a_damaged_state(
    kept_photos: Path, whole: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(shutil.copytree(whole(keep=9), tmp_path / "run"))
    (run.checkpoint(4) / "state.safetensors").write_bytes(b"cut")
    found = replay(run, config(kept_photos), 6)
    assert found.start == 2
    assert found.report.values["loss"] == losses(run.path)[6]
    assert "the state of step 4 is damaged" in capsys.readouterr().err
