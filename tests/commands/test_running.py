"""What is kept and said of a run when it has been measured."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from dinokit.checkpoints.store import RunFolder
from dinokit.commands.running import BEST, best_teacher, keep_best
from tests.commands.test_cli import TINY, photos, run

__all__ = ["photos"]


def measured(step: int, score: float, model: str = "teacher") -> dict[str, object]:
    return {"step": step, "evaluation": "knn", "model": model, "top1@20": score}


def test_the_best_teacher_is_kept_and_named(make_run: Callable[..., Path]) -> None:
    scores = (measured(0, 90, "raw-pixels"), measured(10, 84.2), measured(100, 83.5))
    folder = RunFolder(make_run("photos", lines=scores))
    for _ in range(2):  # a start that goes on comes to the same
        keep_best(folder)
        assert (folder.path / BEST).read_bytes() == (folder.checkpoint(10) / "model.safetensors").read_bytes()
    assert best_teacher(folder) == (10, "k-NN 84.2 %")


def test_of_equals_the_newest_is_the_best(make_run: Callable[..., Path]) -> None:
    assert best_teacher(RunFolder(make_run("photos", lines=(measured(10, 84.2), measured(100, 84.2)))))[0] == 100


def test_without_labels_the_effective_rank_decides(make_run: Callable[..., Path]) -> None:
    looks = tuple({"step": step, "health/rank_cls": rank} for step, rank in ((5, 50.0), (10, 27.0), (90, 23.0)))
    folder = RunFolder(make_run("photos", lines=looks))
    assert best_teacher(folder) == (10, "effective rank 27.0")  # the look at step 5 is of no checkpoint


def test_a_run_that_nobody_looked_at_has_no_best(make_run: Callable[..., Path]) -> None:
    folder = RunFolder(make_run("photos"))
    keep_best(folder)
    assert best_teacher(folder) == (None, "")
    assert not (folder.path / BEST).exists()


@pytest.mark.slow  # it trains and measures
def test_a_run_says_what_it_does_and_what_may_follow(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my run"
    assert run("pretrain", "demo", "--data", photos, "--out", out, *TINY) == 0
    said = capsys.readouterr().err
    for part in (
        "step 0 · measuring random-init and raw-pixels (knn of the data), to compare with",
        f"dinokit evaluate knn --model '{out}' --data {photos}",
        f"--from '{out}' --out ANOTHER",
    ):
        assert part in said
    assert (out / BEST).exists()
    assert run("pretrain", "demo", "--data", photos, "--out", out, *TINY, "--seed", "4") == 2
    named = f"dinokit pretrain '{out / 'config.yaml'}' --from '{out}' --out ANOTHER"
    assert f"or begin another with what it has learned: {named}" in capsys.readouterr().err
    words = [word.replace("ANOTHER", str(tmp_path / "another")) for word in shlex.split(named)[1:]]
    assert run(*words) == 0
    assert "all 2 steps are done" not in capsys.readouterr().err
