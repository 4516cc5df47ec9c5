"""The script that makes a run a job of SLURM: one task per GPU, saved before its time is over, then queued again."""

import shlex
import sys
from collections.abc import Sequence

GRACE = 120  # seconds between SLURM's signal and the end of the job's time: for the step and its checkpoint


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
