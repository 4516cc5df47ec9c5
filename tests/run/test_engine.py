"""A run survives interruptions to the bit, keeps what it should and refuses what it cannot do."""

import errno
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dinokit.checkpoints.store import RunFolder
from dinokit.core.files import read_jsonl
from dinokit.core.messages import RunError, UserError
from dinokit.core.numbers import constant
from dinokit.images.intensity import Pixels
from dinokit.models import head, rope, vit
from dinokit.objectives import dino, ibot, koleo
from dinokit.run import engine, setup
from dinokit.run.feed import feed
from dinokit.run.setup import Setup
from dinokit.sources.source import open_source
from dinokit.training.config import Data, ObjectiveConfigs, Rollback, Runtime, TrainConfig
from dinokit.training.course import Start
from dinokit.training.step import Trainer
from dinokit.views import masking, multicrop
from dinokit.views.loader import Loader
from tests.training.test_step import tiny


def config(photos: Path, *, steps: int = 6, **runtime: object) -> TrainConfig:
    """A run of seconds, with everything random switched on."""
    prototypes = head.Config(hidden=8, bottleneck=4, prototypes=12)
    experiment = tiny(
        steps=steps,
        data=Data(
            views=multicrop.Config(global_size=16, local_size=8, local_count=2),
            masks=masking.Config(),
            batch_size=4,
            accumulate=2,
            source=str(photos),
        ),
        backbone=vit.Config(
            patch_size=4, dim=16, depth=2, heads=2, ffn_hidden=32, drop_path=0.4, rope=rope.RopeConfig(rescale=2.0)
        ),
        objectives=ObjectiveConfigs(
            {
                "dino": dino.Config(head=prototypes, targets="centring"),
                "ibot": ibot.Config(head=prototypes),
                "koleo": koleo.Config(),
            }
        ),
    )
    settings = {"workers": 0, "checkpoint_every": 2, "log_every": 1, "tensorboard": False, "device": "cpu"} | runtime
    return TrainConfig(experiment=experiment, runtime=Runtime(**settings))  # type: ignore[arg-type]


def loader(settings: TrainConfig, trainer: Trainer) -> Loader:
    """What the engine would feed a trainer with."""
    images = open_source(settings.experiment.data.source)
    return feed(Setup(RunFolder(Path("nowhere")), settings, trainer.device, images), trainer)


def final(run: Path) -> dict[str, Tensor]:
    """All numbers of the last checkpoint."""
    folder = RunFolder(run)
    return load_file(folder.checkpoint(folder.steps()[-1]) / "state.safetensors")


def assert_same(one: Path, other: Path) -> None:
    """Bit by bit."""
    left, right = final(one), final(other)
    assert left.keys() == right.keys()
    differing = [name for name, value in left.items() if not torch.equal(value, right[name])]
    assert not differing
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def losses(run: Path) -> dict[int, float]:
    """Loss by step."""
    return {line["step"]: line["loss"] for line in read_jsonl(run / "metrics.jsonl")}


def test_a_run_writes_what_it_promises(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    seen: list[int] = []
    engine.pretrain(config(photos), run, on_checkpoint=lambda step, path: seen.append(step))
    assert seen == [0, 2, 4, 6]
    assert RunFolder(run).steps() == [0, 2, 4, 6]
    assert RunFolder(run).steps(with_state=True) == [4, 6]
    assert sorted(losses(run)) == [1, 2, 3, 4, 5, 6]
    newest = run / "checkpoints" / "6" / "model.safetensors"
    assert (run / "model.safetensors").read_bytes() == newest.read_bytes()
    assert {path.name for path in run.iterdir()} - {".lock"} == {
        "checkpoints", "config.yaml", "environment.json", "metrics.jsonl", "model.safetensors",
    }  # fmt: skip


def test_who_looks_at_a_checkpoint_can_end_the_run(photos: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def enough(step: int, path: Path) -> bool:
        seen.append(step)
        return step == 2

    engine.pretrain(config(photos), tmp_path / "run", on_checkpoint=enough)
    assert seen == [0, 2]
    assert RunFolder(tmp_path / "run").steps() == [0, 2]


@pytest.fixture
def hangup() -> Iterator[None]:
    """Meet SIGHUP as a terminal's programs do, also if these tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("after", "wish"), [(1, signal.SIGINT), pytest.param(2, signal.SIGTERM, marks=pytest.mark.slow), (5, signal.SIGHUP)]
)
def test_an_interrupted_run_continues_bit_by_bit(
    photos: Path,
    whole: Callable[[], Path],
    tmp_path: Path,
    after: int,
    wish: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    hangup: None,
) -> None:
    expected, broken = whole(), tmp_path / "broken"
    _interrupt_after(after, wish, monkeypatch)
    monkeypatch.setattr(sys, "stderr", _Gone())
    with pytest.raises(engine.Interrupted, match=f"stopped at step {after} of 6; saved is step {after}"):
        engine.pretrain(config(photos), broken)
    monkeypatch.undo()
    engine.pretrain(config(photos), broken)
    assert_same(expected, broken)
    assert losses(expected) == losses(broken)


class _Gone(io.StringIO):
    """Standard error of a terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


def _interrupt_after(after: int, wish: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the process a signal while step `after` runs; a closing terminal may send two."""

    def wish_twice() -> None:
        for _ in range(2 if wish == signal.SIGHUP else 1):
            os.kill(os.getpid(), wish)

    _during_step(after, wish_twice, monkeypatch)


def _during_step(number: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen while a step runs."""
    step = Trainer.step

    def disturbed(self: Trainer, micro_batches: list[multicrop.Views], *, step: int, original: object = step) -> object:
        if step + 1 == number:
            act()
        return original(self, micro_batches, step=step)  # type: ignore[operator]

    monkeypatch.setattr(Trainer, "step", disturbed)


def test_who_stops_in_the_first_step_saves_without_a_look(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look may take longer than is granted, and nothing of the step would be left."""
    seen: list[int] = []
    _during_step(1, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    with pytest.raises(engine.Interrupted, match="saved is step 1"):
        engine.pretrain(config(photos), tmp_path / "run", on_checkpoint=lambda step, _: seen.append(step))
    assert seen == []


def test_a_crash_between_checkpoints_continues_from_the_last_one(
    photos: Path, whole: Callable[[], Path], tmp_path: Path
) -> None:
    expected, broken = whole(), tmp_path / "broken"

    def crash(step: int, path: Path) -> None:
        if step == 4:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        engine.pretrain(config(photos), broken, on_checkpoint=crash)
    (broken / "checkpoints" / ".6.part").mkdir()  # and a checkpoint that was being written
    engine.pretrain(config(photos), broken)
    assert_same(expected, broken)


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(
    kept_photos: Path, whole: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(whole(), tmp_path / "broken")
    (broken / "checkpoints" / "6" / "state.json").write_text("[]")
    capsys.readouterr()
    engine.pretrain(config(kept_photos), broken)
    assert capsys.readouterr().err.count("warning: checkpoint") == 1
    assert_same(whole(), broken)
    assert losses(whole()) == losses(broken)
    assert (broken / "checkpoints" / ".damaged-6" / "state.safetensors").exists()


def test_the_runtime_changes_no_number(photos: Path, whole: Callable[[], Path], tmp_path: Path) -> None:
    one, other = whole(), tmp_path / "other"
    engine.pretrain(config(photos, workers=2, checkpoint_every=5, keep=1, distort="device"), other)
    assert losses(one) == losses(other)
    assert_same(one, other)


def test_a_changed_experiment_is_refused_and_nothing_is_touched(
    kept_photos: Path, whole: Callable[[], Path], tmp_path: Path
) -> None:
    run = shutil.copytree(whole(), tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(UserError, match="holds another experiment: steps 6 -> 3") as caught:
        engine.pretrain(config(kept_photos, steps=3), run)
    assert "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def test_the_same_folder_written_otherwise_is_the_same_experiment(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.pretrain(config(photos, steps=1), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    engine.pretrain(config(Path("photos"), steps=1), tmp_path / "run")
    with pytest.raises(UserError, match=r"another experiment: data\.source"):
        engine.pretrain(config(Path("run"), steps=1), tmp_path / "run")


def test_a_changed_runtime_is_accepted_and_a_finished_run_says_how_to_train_on(
    kept_photos: Path, whole: Callable[[], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(whole(), tmp_path / "run")
    engine.pretrain(config(kept_photos, log_every=5), run)
    assert f"all 6 steps are done; to train on: --from {run} --out ANOTHER" in capsys.readouterr().err
    assert "log_every: 5" in (run / "config.yaml").read_text()


def test_a_folder_with_other_things_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    with pytest.raises(UserError, match="not empty and holds no run"):
        engine.pretrain(config(photos), tmp_path / "thesis")
    with pytest.raises(UserError, match="is a file"):
        engine.pretrain(config(photos), tmp_path / "thesis" / "chapter.tex")


@pytest.mark.parametrize("removed", ["all", "log too", "newest"])
def test_a_finished_model_is_not_replaced_by_an_early_teacher(
    kept_photos: Path, whole: Callable[[], Path], tmp_path: Path, removed: str
) -> None:
    run = shutil.copytree(whole(), tmp_path / "run")
    model = (run / "model.safetensors").read_bytes()
    shutil.rmtree(run / "checkpoints" / ("6" if removed == "newest" else ""))
    if removed == "log too":
        (run / "metrics.jsonl").unlink()
    if removed == "newest":  # goes on from step 4, and until step 6 nothing is as far

        def looked_at(step: int, path: Path) -> None:
            assert step in (4, 6)
            assert (run / "model.safetensors").read_bytes() == model

        engine.pretrain(config(kept_photos), run, on_checkpoint=looked_at)
    else:
        said = r"has a model of step 6 and no checkpoint to go on from.*--from .*model.safetensors --out ANOTHER"
        with pytest.raises(UserError, match=said):
            engine.pretrain(config(kept_photos), run)
    assert (run / "model.safetensors").read_bytes() == model


def test_what_needs_no_image_is_checked_before_they_are_looked_for(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    nowhere, out = config(tmp_path / "no images"), tmp_path / "new" / "run"
    begun = replace(nowhere.experiment, start=Start(source=str(tmp_path / "nope")))
    mistakes = {
        r"pip install 'dinokit\[wandb\]'": config(tmp_path / "no images", trackers=("wandb",)),
        "no model at .*nope": replace(nowhere, experiment=begun),
        "device 'meta' is not usable": config(tmp_path / "no images", device="meta"),
        "cannot share the 2 images": config(tmp_path / "no images", processes=3),
    }
    for message, settings in mistakes.items():
        with pytest.raises(UserError, match=message):
            engine.pretrain(settings, out)
    with pytest.raises(UserError, match="cannot write to /proc/run"):
        engine.pretrain(nowhere, Path("/proc/run"))
    with pytest.raises(UserError, match="no images"):
        engine.pretrain(nowhere, out)
    assert not out.parent.exists()


def test_a_disk_without_room_for_the_checkpoints_is_said_before_the_first_step(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(setup.shutil, "disk_usage", lambda path: usage._replace(free=100_000))
        with pytest.raises(UserError, match=r"run is on a disk with 0\.00 GB free.*--runtime.keep 1"):
            engine.pretrain(config(photos, steps=2), tmp_path / "run")
    engine.pretrain(config(photos, steps=2), tmp_path / "run")
    state = tmp_path / "run" / "checkpoints" / "2" / "state.safetensors"
    with monkeypatch.context() as patch:  # what is asked for is what is written, but for the header
        patch.setattr(setup.shutil, "disk_usage", lambda path: usage._replace(free=3 * state.stat().st_size))
        engine.pretrain(config(photos, steps=2), tmp_path / "other")


def test_broken_images_are_replaced_and_listed_once(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff not a jpeg")
    (photos / "empty.png").write_bytes(b"")
    run = tmp_path / "run"
    engine.pretrain(config(photos, steps=8), run)  # twice each image
    listed = read_jsonl(run / "bad_images.jsonl")
    assert sorted(line["key"] for line in listed) == ["broken.jpg", "empty.png"]
    assert all(line["reason"] for line in listed)


def test_a_run_without_finite_losses_gives_up_and_says_what_is_saved(photos: Path, tmp_path: Path) -> None:
    settings = config(photos, steps=50, rollback=Rollback(after=3, most=1))
    exploding = replace(settings.experiment, optim=replace(settings.experiment.optim, lr=constant(1e30)))
    with pytest.raises(RunError, match=r"of the last .* steps had no finite loss.*saved is step"):
        engine.pretrain(replace(settings, experiment=exploding), tmp_path / "run")


def test_a_run_without_any_finite_step_is_not_done(photos: Path, tmp_path: Path) -> None:
    settings = config(photos, steps=3)
    blinding = replace(settings.experiment.data, pixels=Pixels((0.5,), (1e-45,)))  # all pixels become infinite
    with pytest.raises(RunError, match="none of the 3 steps had a finite loss"):
        engine.pretrain(replace(settings, experiment=replace(settings.experiment, data=blinding)), tmp_path / "run")


def test_a_run_outside_the_main_thread_trains(photos: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(engine.pretrain, config(photos, steps=1), tmp_path / "run").result()
    assert RunFolder(tmp_path / "run").steps() == [0, 1]


def test_nohup_keeps_its_promise(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangup: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _interrupt_after(1, signal.SIGHUP, monkeypatch)
    engine.pretrain(config(photos, steps=2), tmp_path / "run")


def test_the_environment_is_recorded(photos: Path, tmp_path: Path) -> None:
    engine.pretrain(config(photos, steps=1), tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert {"command", "torch", "python", "device", "cores"} <= recorded.keys()
    assert recorded["images"] == 12
    engine.pretrain(config(photos, steps=1), tmp_path / "run")
    again = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert [start["started"] for start in again["earlier"]] == [recorded["started"]]
    assert again["started"] >= recorded["started"]


def test_an_error_of_another_file_is_not_called_a_failure_to_write(photos: Path, tmp_path: Path) -> None:
    def fail(step: int, path: Path) -> None:
        (tmp_path / "nowhere" / "labels.csv").read_text()

    with pytest.raises(RunError, match=r"^.*nowhere/labels\.csv: No such file or directory; saved is step 0"):
        engine.pretrain(config(photos), tmp_path / "run", on_checkpoint=fail)

    def full(step: int, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"cannot write to .*run: No space left on device"):
        engine.pretrain(config(photos), tmp_path / "run", on_checkpoint=full)

    def lost(step: int, path: Path) -> None:
        raise ChildProcessError(errno.ECHILD, "No child processes")

    with pytest.raises(RunError, match="^No child processes; saved is step 0; the same command continues"):
        engine.pretrain(config(photos), tmp_path / "run", on_checkpoint=lost)


@pytest.mark.parametrize("change", ["none", "renamed", "added"])
def test_other_images_under_the_same_path_are_noticed(
    photos: Path, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _stopped_early(photos, tmp_path / "run")
    if change == "renamed":
        (photos / "0.png").rename(photos / "new.png")
    if change == "added":
        (photos / "12.png").write_bytes((photos / "11.png").read_bytes())
    capsys.readouterr()
    engine.pretrain(config(photos, steps=4), tmp_path / "run")
    said = [line for line in capsys.readouterr().err.splitlines() if "other images than at the last start" in line]
    assert len(said) == (change != "none")


def _stopped_early(photos: Path, run: Path) -> None:
    def stop(step: int, path: Path) -> None:
        if step == 2:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        engine.pretrain(config(photos, steps=4), run, on_checkpoint=stop)


def test_a_source_that_goes_away_costs_no_step(
    photos: Path, whole: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, run, away = whole(), tmp_path / "run", tmp_path / "away"
    with monkeypatch.context() as patch:
        _during_step(3, lambda: photos.rename(away), patch)
        with pytest.raises(RunError, match="could not be read.*saved is step 3; the same command continues"):
            engine.pretrain(config(photos, checkpoint_every=100), run)
    assert sorted(losses(run)) == [1, 2, 3]
    away.rename(photos)
    engine.pretrain(config(photos, checkpoint_every=100), run)
    assert_same(expected, run)


def test_a_source_that_never_was_is_a_mistake(photos: Path, tmp_path: Path) -> None:
    for photo in photos.iterdir():
        photo.write_bytes(b"")
    with pytest.raises(UserError, match="check that the files are whole"):
        engine.pretrain(config(photos), tmp_path / "run")
