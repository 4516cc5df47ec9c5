"""Several processes take the steps of one, stop together, and do not outlive each other."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinokit.checkpoints.store import RunFolder
from dinokit.config import override, to_yaml
from dinokit.core.files import read_jsonl
from dinokit.core.messages import RunError, UserError
from dinokit.models import rope
from dinokit.objectives import koleo
from dinokit.run import engine, ranks
from dinokit.sources.source import open_source
from dinokit.training.config import HALVES, ObjectiveConfigs, Tolerance, TrainConfig
from tests.ranks import train_on_ranks
from tests.run.test_engine import _during_step, assert_same, config, final, losses
from tests.started import Started


def without_draws(settings: TrainConfig) -> TrainConfig:
    """Switch off what every rank draws for itself: drop path and RoPE augmentation."""
    backbone = replace(settings.experiment.backbone, drop_path=0.0, rope=rope.RopeConfig())
    return replace(settings, experiment=replace(settings.experiment, backbone=backbone))


def without_koleo(settings: TrainConfig) -> TrainConfig:
    """Leave out what divides by the distance of features: those of so small a network are equal but for rounding."""
    return override(settings, {"objectives.koleo": None}, hidden=HALVES)


def test_two_processes_take_the_steps_of_one(photos: Path, tmp_path: Path) -> None:
    """Sinkhorn, centring, masks, two micro-batches: float32 rounding is all that differs."""
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff not a jpeg")
    one, two = tmp_path / "one", tmp_path / "two"
    engine.pretrain(without_koleo(without_draws(config(photos))), one)
    train_on_ranks(without_koleo(without_draws(config(photos))), two)
    for step, loss in losses(one).items():
        assert losses(two)[step] == pytest.approx(loss, rel=1e-4)
    found = final(two)
    for name, value in final(one).items():
        if value.is_floating_point() and value.norm():
            # AdamW divides by the size of the gradient, so that noise in tiny gradients becomes noise in the weights
            assert float((found[name] - value).norm() / value.norm()) < 1e-2, name
    assert [line["key"] for line in read_jsonl(two / "bad_images.jsonl")] == ["broken.jpg"]


@pytest.mark.slow
def test_an_interrupted_run_of_two_processes_continues_bit_by_bit(photos: Path, tmp_path: Path) -> None:
    settings = config(photos, steps=12, checkpoint_every=5, processes=2)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_on_ranks(settings, whole)
    for wish, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        process = Started(*_words(settings, tmp_path, broken))
        _wait_for_line(broken, 3 if wish == signal.SIGINT else 7)
        process.send_signal(wish)
        assert process.wait() == code
    train_on_ranks(settings, broken)
    assert_same(whole, broken)


@pytest.mark.slow
def test_a_run_continues_with_another_number_of_processes(photos: Path, tmp_path: Path) -> None:
    """The global batches stay the same, and so do the losses."""
    alone, mixed = without_draws(config(photos)), without_draws(config(photos, processes=2))
    engine.pretrain(alone, tmp_path / "whole")
    process = Started(*_words(mixed, tmp_path, tmp_path / "run"))
    _wait_for_line(tmp_path / "run", 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130
    engine.pretrain(alone, tmp_path / "run")
    assert losses(tmp_path / "run") == {
        step: pytest.approx(loss, rel=1e-4) for step, loss in losses(tmp_path / "whole").items()
    }


@pytest.mark.parametrize(
    ("culprit", "raised", "said"),
    [
        ("kill -9 $$", ranks.RankLost, r"process 2 of the run ended \(killed by SIGKILL\)"),
        ("echo 'error: no such folder' >&2; exit 2", UserError, "no such folder"),
        ("echo oh >&2; exit 1", ranks.RankLost, r"process 2 of the run ended \(exit code 1\) oh"),
    ],
)
def test_the_process_that_failed_is_found_among_those_that_fell_with_it(
    culprit: str, raised: type[Exception], said: str
) -> None:
    others = []
    for number, end in enumerate((f"echo {ranks.VICTIM} >&2; exit 3", culprit, "exit 130"), start=1):
        complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `_end`)
        others.append(ranks._Other(number, subprocess.Popen(["sh", "-c", end], stderr=complaints), complaints))
    with pytest.raises(raised, match=f"^{said}$"):
        ranks._raise_culprit(others, RuntimeError("Connection closed by peer"))
    ranks._end(others)


@pytest.mark.slow  # three starts; the test above finds it among processes that are no ranks
def test_the_process_that_failed_is_named_and_not_one_that_fell_with_it(photos: Path, tmp_path: Path) -> None:
    settings = config(photos, processes=3)
    six = replace(settings.experiment, data=replace(settings.experiment.data, batch_size=6, accumulate=1))

    def kill(step: int, path: Path) -> None:
        if step == 2:
            os.kill(_others()[-1], signal.SIGKILL)

    with pytest.raises(RunError, match=r"process 2 of the run ended \(killed by SIGKILL\); saved is step 2"):
        engine.pretrain(replace(settings, experiment=six), tmp_path / "run", on_checkpoint=kill)
    assert not _others()


@pytest.mark.slow
def test_no_process_outlives_rank_0(photos: Path, tmp_path: Path) -> None:
    words = _words(config(photos, steps=500, processes=2), tmp_path, tmp_path / "run")
    process = subprocess.Popen([sys.executable, "-m", "dinokit", *words])
    _wait_for_line(tmp_path / "run", 2)
    others = _others(process.pid)
    assert len(others) == 1
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{others[0]}").exists():
        assert time.monotonic() < deadline, "the other process goes on alone"
        time.sleep(0.1)


@pytest.mark.slow  # it starts another process; the words of one are found above
def test_a_mistake_that_one_rank_finds_is_the_users_mistake(photos: Path, tmp_path: Path) -> None:
    for path in sorted(photos.iterdir())[1:]:
        path.write_bytes(b"")  # nearly every image is broken: some rank gives up first
    with pytest.raises(UserError, match=r"images in a row of .* could not be read"):
        engine.pretrain(config(photos, steps=200, processes=2, data=Tolerance(max_bad_ratio=1.0)), tmp_path / "run")


def test_groups_of_koleo_must_suit_the_ranks(photos: Path, tmp_path: Path) -> None:
    settings = config(photos, processes=2)
    data = replace(settings.experiment.data, batch_size=12, accumulate=1)
    grouped = ObjectiveConfigs({"koleo": koleo.Config(group=4)})
    cut = replace(settings.experiment, data=data, objectives=grouped)
    with pytest.raises(
        UserError, match=r"koleo.group 4 must divide the 6 images of a rank's micro-batch.*runtime.processes"
    ):
        engine.pretrain(replace(settings, experiment=cut), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # a start of another process; who ended, and how, is found among processes that are no ranks
def test_a_lost_process_ends_the_run_with_one_line(photos: Path, tmp_path: Path) -> None:
    def kill(step: int, path: Path) -> None:
        if step == 2:
            for other in _others():
                os.kill(other, signal.SIGKILL)

    threads = torch.get_num_threads()
    with pytest.raises(RunError, match=r"process 1 of the run ended \(killed by SIGKILL\); saved is step 2"):
        engine.pretrain(config(photos, processes=2), tmp_path / "run", on_checkpoint=kill)
    assert not _others()
    assert torch.get_num_threads() == threads


def test_a_process_that_cannot_start_is_not_waited_for(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks.sys, "executable", "/bin/false")
    with pytest.raises(RunError, match=r"process 1 of the run ended \(exit code 1\); nothing is saved yet"):
        engine.pretrain(config(photos, processes=2), tmp_path / "run")


@pytest.mark.slow
def test_torchrun_starts_ranks_too(photos: Path, tmp_path: Path) -> None:
    settings = config(photos, steps=2)
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "dinokit", "pretrain", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]
    done = subprocess.run([*torchrun, *words], capture_output=True, text=True, check=True)
    assert done.stderr.count("2 processes") == 1  # rank 0 alone talks
    assert sorted(losses(tmp_path / "run")) == [1, 2]


def test_a_single_gpu_is_not_shared(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo asks for two processes, which is right for a CPU alone."""
    settings = config(photos, processes=2)
    assert ranks.count(settings.experiment, settings.runtime) == 2
    monkeypatch.setattr(ranks.devices, "choose", lambda name: torch.device("mps"))
    assert ranks.count(settings.experiment, settings.runtime) == 1


def test_a_rank_that_knows_no_others_is_a_mistake(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    settings = config(photos)
    with pytest.raises(UserError, match=r"RANK is set, but WORLD_SIZE and MASTER_ADDR and MASTER_PORT not"):
        ranks.count(settings.experiment, settings.runtime)


def test_another_number_of_processes_than_asked_for_is_said(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(ranks.dist, "world_size", lambda: 4)
    assert ranks.described(config(photos, processes=2).runtime).endswith(
        "4 processes (as started, not runtime.processes 2)"
    )
    assert ranks.described(config(photos).runtime).endswith("4 processes")


def test_processes_must_share_the_batch(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 processes cannot share the 2 images"):
        engine.pretrain(config(photos, processes=3), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _others(parent: int | None = None) -> list[int]:
    """Return the processes of the ranks that a process has started, by rank."""
    words = ["ps", "-o", "pid=,args=", "--ppid", str(parent or os.getpid())]
    listed = subprocess.run(words, capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "-m dinokit" in line]


def _words(settings: TrainConfig, folder: Path, run: Path) -> list[str]:
    (folder / "config.yaml").write_text(to_yaml(settings))
    return ["pretrain", str(folder / "config.yaml"), "--out", str(run), "--eval.tasks", "null"]


def _wait_for_line(run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while max(losses(run), default=0) < step:
        assert time.monotonic() < deadline, "the run does not advance"
        time.sleep(0.01)


@pytest.mark.slow
def test_images_that_only_another_rank_misses_cost_no_step(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, away = tmp_path / "run", tmp_path / "away"
    source = open_source(str(photos))
    held = [source.read(index) for index in range(len(source))]
    monkeypatch.setattr(type(source), "read", lambda self, index, min_side=None: held[index])  # of rank 0 alone
    _during_step(3, lambda: photos.rename(away), monkeypatch)
    with pytest.raises(RunError, match=r"could not be read.*saved is step [345]; the same command continues"):
        engine.pretrain(config(photos, steps=400, processes=2, checkpoint_every=1000), run)
    assert max(losses(run)) == RunFolder(run).steps(with_state=True)[-1]


@pytest.mark.slow
def test_two_processes_move_low_rank_changes_as_one_does(photos: Path, tmp_path: Path) -> None:
    """Gradients of the factors are averaged, not those that each rank has of its own images."""
    one, two = tmp_path / "one", tmp_path / "two"
    settings = override(without_koleo(without_draws(config(photos))), {"optim.trained": "lora:2"}, hidden=HALVES)
    engine.pretrain(settings, one)
    train_on_ranks(settings, two)
    alone, both = final(one), final(two)
    name = "blocks.0.attn.qkv.weight"
    begun = load_file(RunFolder(one).checkpoint(0) / "model.safetensors")[name]
    name = f"backbone.student.{name}"
    moved = alone[name] - begun
    assert moved.norm() > 0
    assert float((both[name] - alone[name]).norm() / moved.norm()) < 0.05
