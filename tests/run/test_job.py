"""The script of a SLURM job, run by a bash that knows a srun of two tasks."""

import os
import subprocess
from pathlib import Path

import pytest

from dinokit import cli
from dinokit.config import to_yaml
from tests.run.test_engine import config, losses

SRUN = """#!/bin/bash
# srun: two tasks on this machine; the first word is an option of srun's
shift
export SLURM_JOB_ID=$PORT_SEED SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2 SLURM_NODEID=0
export SLURM_STEP_NODELIST=127.0.0.1
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & second=$!
wait $first; code=$?
wait $second || code=$?
exit $code
"""


def write(photos: Path, folder: Path, *words: str) -> int:
    (folder / "config.yaml").write_text(to_yaml(config(photos, steps=2)))
    place = ["pretrain", str(folder / "config.yaml"), "--out", str(folder / "run's")]
    script = [] if "--slurm" in words else ["--slurm", str(folder / "job.sh")]
    return cli.run([*place, *script, "--data.batch_size", "16", *words])


def run(folder: Path) -> "subprocess.CompletedProcess[str]":
    for name, text in {"srun": SRUN, "scontrol": '#!/bin/bash\necho "scontrol $*"\n'}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    path = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "PORT_SEED": str(os.getpid())}
    return subprocess.run(
        ["bash", str(folder / "job.sh")], env=os.environ | path, capture_output=True, text=True, check=False
    )


def test_the_script_asks_for_what_was_said_and_writing_it_trains_nothing(photos: Path, tmp_path: Path) -> None:
    assert write(photos, tmp_path, "--nodes", "4", "--gpus-per-node", "2", "--optim.betas", "[0.8, 0.9]") == 0
    lines = (tmp_path / "job.sh").read_text().splitlines()
    asked = {"--nodes=4", "--ntasks-per-node=2", "--gpus-per-node=2", "--signal=USR1@120", "--requeue"}
    assert asked <= {line.removeprefix("#SBATCH ") for line in lines}
    assert sum("--optim.betas '[0.8, 0.9]'" in line for line in lines) == 1
    assert not (tmp_path / "run's").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nodes", "0"], "nodes and gpus_per_node must be at least 1"),
        (["--gpus-per-node", "3"], "3 processes cannot share the 8 images"),
        (["--stages.late", "{steps: 1, changes: {data: {batch_size: 12}}}"], "late: 8 processes cannot share the 6"),
        (["--slurm", "."], "--slurm takes a file"),
    ],
)
def test_a_job_that_cannot_run_is_not_written(
    photos: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write(photos, tmp_path, *words) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "job.sh").exists()


def test_nodes_without_a_job_are_a_mistake(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(config(photos, steps=1)))
    monkeypatch.chdir(tmp_path)
    assert cli.run(["pretrain", "config.yaml", "--out", "run", "--nodes", "4"]) == 2
    assert "--slurm FILE" in capsys.readouterr().err
    assert cli.run(["pretrain", "config.yaml", "--out", "run", "--slurm", "job.sh", "--gpus-per-node", "2"]) == 0
    assert str(tmp_path / "config.yaml") in (tmp_path / "job.sh").read_text()  # wherever the job begins


@pytest.mark.parametrize(("code", "queued"), [(130, "scontrol requeue 7\n"), (3, ""), (0, "")])
def test_a_job_that_saved_and_stopped_is_queued_again(photos: Path, tmp_path: Path, code: int, queued: str) -> None:
    write(photos, tmp_path)
    text = (tmp_path / "job.sh").read_text()
    command = next(line for line in text.splitlines() if line.startswith("srun"))
    (tmp_path / "job.sh").write_text(text.replace(command, f"(exit {code})"))
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (code, queued)


@pytest.mark.slow
def test_the_tasks_of_srun_train_together(photos: Path, tmp_path: Path) -> None:
    write(photos, tmp_path)
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 processes") == 1  # rank 0 alone talks
    assert sorted(losses(tmp_path / "run's")) == [1, 2]
