"""A run's folder: whatever was left in it, no state is lost and nobody starts from zero by surprise."""

from pathlib import Path

import pytest
import torch

from dinokit.checkpoints import store
from dinokit.checkpoints.store import MODEL, Clock, RunFolder
from dinokit.core.messages import RunError


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with three checkpoints, of which the two newest can be continued from."""
    folder = RunFolder(tmp_path)
    for step in (0, 2, 4):
        state = {"x": torch.full((3,), float(step))}
        folder.save(step, state=state, clock=Clock(step=step), models={MODEL: (state, {})}, keep=2)
    return folder


def damage(run: RunFolder, step: int, how: str) -> None:
    folder = run.checkpoint(step)
    if how == "cut":
        (folder / "state.safetensors").write_bytes((folder / "state.safetensors").read_bytes()[:-4])
    elif how in ("state.safetensors", "model.safetensors"):
        (folder / how).unlink()
    else:
        (folder / "state.json").write_bytes(how.encode("latin-1"))


WAYS = ["cut", "state.safetensors", "model.safetensors", "", "[]", '{"step": 4, "hours": 1}', '{"step": 3}', "\xff"]


@pytest.mark.parametrize("how", WAYS)
def test_a_damaged_checkpoint_is_kept_aside_for_an_older_one(run: RunFolder, how: str) -> None:
    damage(run, 4, how)
    left = {path.name for path in run.checkpoint(4).iterdir()}
    (line,) = run.set_damaged_aside()
    assert "is damaged" in line
    assert "kept as .damaged-4, continuing from step 2" in line
    assert run.steps(with_state=True) == [2]
    assert {path.name for path in (run.path / "checkpoints" / ".damaged-4").iterdir()} == left
    assert run.set_damaged_aside() == []
    assert run.load(2)[1] == Clock(step=2)


def test_a_clock_that_was_changed_is_damaged(run: RunFolder) -> None:
    clock = run.checkpoint(4) / "state.json"
    clock.write_text(clock.read_text().replace('"rollbacks": 0', '"rollbacks": 2'))
    (line,) = run.set_damaged_aside()
    assert "state.json was changed" in line


@pytest.mark.parametrize("how", WAYS)
def test_without_an_older_state_the_run_stops_and_says_what_is_left(run: RunFolder, how: str) -> None:
    damage(run, 2, how)
    damage(run, 4, how)
    with pytest.raises(RunError, match=r"4 is damaged .* of other steps \(0, 2\) only the teacher is left"):
        run.set_damaged_aside()
    assert run.steps() == [0, 2, 4]


def test_a_run_whose_states_were_deleted_does_not_start_again(run: RunFolder) -> None:
    for step in (2, 4):
        (run.checkpoint(step) / "state.json").unlink()
    with pytest.raises(RunError, match="only the teacher is left"):
        run.set_damaged_aside()


def test_reading_a_damaged_checkpoint_names_an_older_one_only_if_there_is_one(run: RunFolder) -> None:
    damage(run, 4, "[]")
    with pytest.raises(RunError, match="rename that folder to continue from step 2"):
        run.load(4)
    damage(run, 2, "cut")
    with pytest.raises(RunError, match="restore it from a copy"):
        run.load(4)
    (run.checkpoint(2) / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"it has no model\.safetensors"):
        run.publish(2)


def test_a_checkpoint_that_cannot_be_read_now_is_not_passed_over(run: RunFolder) -> None:
    (run.checkpoint(4) / "state.json").unlink()
    (run.checkpoint(4) / "state.json").mkdir()  # stands for a disk that fails: reading it is an OSError
    with pytest.raises(RunError, match="cannot read checkpoint .*4: Is a directory"):
        run.set_damaged_aside()
    assert run.steps(with_state=True) == [2, 4]


def test_only_numbers_are_steps_and_what_a_kill_left_is_removed(run: RunFolder) -> None:
    for name in ("\N{SUPERSCRIPT TWO}", "007", "-1", "notes"):
        (run.path / "checkpoints" / name).mkdir()
    (run.path / "checkpoints" / ".6.part").mkdir()
    for name in ("model.safetensors", "guard.jsonl", "adapt.json"):
        (run.path / f".{name}.123.part").write_bytes(b"half")
    assert run.steps() == [0, 2, 4]
    run.create("experiment: {}\n")
    assert not list(run.path.rglob(".*.part"))


def test_a_checkpoint_is_forced_onto_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced = list[str]()
    monkeypatch.setattr(store, "sync", lambda path: forced.append(path.name))
    run = RunFolder(tmp_path)
    state = {"x": torch.zeros(3)}
    run.save(1, state=state, clock=Clock(step=1), models={MODEL: (state, {})}, keep=1)
    parts = {path.name for path in run.checkpoint(1).rglob("*")}
    assert parts <= set(forced)
    assert forced[-2:] == [".1.part", "checkpoints"]
