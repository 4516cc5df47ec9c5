"""The script that makes a run a job of SLURM: one task per GPU, saved before its time is over, then queued again."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any

from dinokit.core.files import write_text
from dinokit.core.messages import UserError, info
from dinokit.run import ranks
from dinokit.training.config import TrainConfig

GRACE = 120  # seconds between SLURM's signal and the end of the job's time: for the step and its checkpoint


def write(
    file: Path,
    words: list[str],
    config: TrainConfig,
    settings: Mapping[str, Any],
    *,
    nodes: int,
    gpus_per_node: int,
) -> None:
    """Write the script, unless the job could not run.

    Args:
        words: of the command, after `dinokit`; with paths that hold on every node.
        config: of the run, with the settings.
        settings: that follow the words.
    """
    if min(nodes, gpus_per_node) < 1:
        raise UserError(f"nodes and gpus_per_node must be at least 1, got {nodes} and {gpus_per_node}")
    # said now, not when the job's turn has come
    misfit = ranks.misfit(config.experiment, config.runtime, nodes * gpus_per_node)
    if misfit:
        raise UserError(f"{misfit}; change data.batch_size, data.accumulate, --nodes or --gpus-per-node")
    if file.is_dir():
        raise UserError(f"{file} is a folder; --slurm takes a file such as {file / 'job.sh'}")
    for key, value in settings.items():
        words += [f"--{key}", dumps(value)]  # JSON is YAML
    write_text(file, script(words, nodes=nodes, gpus_per_node=gpus_per_node))
    info(f"{nodes} x {gpus_per_node} ranks: look at {file}, then sbatch {file}")


def script(words: Sequence[str], *, nodes: int, gpus_per_node: int) -> str:
    """Return the text for sbatch.

    Args:
        words: of the command, after `dinokit`; with paths that hold on every node.
    """
    command = shlex.join([sys.executable, "-m", "dinokit", *words])
    return f"""#!/bin/bash
#SBATCH --job-name=dinokit
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={gpus_per_node}
#SBATCH --gpus-per-node={gpus_per_node}
#SBATCH --signal=USR1@{GRACE}
#SBATCH --requeue
#SBATCH --open-mode=append
# add what the cluster wants: --account, --partition, --time, --cpus-per-task, --mem

srun --kill-on-bad-exit=1 {command}
code=$?
# 130: asked to stop, and saved; the same job continues the run
if [ "$code" -eq 130 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
