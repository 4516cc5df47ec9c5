"""Ranks that SLURM's srun has started: what it says of them, in torchrun's words.

Only what srun itself sets is read: the script that sbatch runs also has SLURM_PROCID and SLURM_NTASKS, but is alone.
"""

import os
import re
from collections.abc import MutableMapping
from itertools import product

FIRST_PORT, PORTS = 10_000, 20_000  # below those that Linux hands out by itself (from 32768)


def adopt(environment: MutableMapping[str, str] = os.environ) -> None:
    """Give this process torchrun's variables if srun has started it with others; what is already set stays.

    The port follows from the numbers of job and step, so that all tasks agree and two jobs on a node seldom do.
    """
    if "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", 1)) < 2:
        return
    counts = re.findall(r"(\d+)(?:\(x(\d+)\))?", environment["SLURM_STEP_TASKS_PER_NODE"])  # "4(x2),3" is 4, 4, 3
    tasks = [count for count, times in counts for _ in range(int(times or 1))]  # of each node
    number = int(environment["SLURM_JOB_ID"]) + 101 * int(environment.get("SLURM_STEP_ID", 0))
    said = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": tasks[int(environment["SLURM_NODEID"])],
        "MASTER_ADDR": nodes(environment["SLURM_STEP_NODELIST"])[0],
        "MASTER_PORT": str(FIRST_PORT + number % PORTS),
    }
    for name, value in said.items():
        environment.setdefault(name, value)


def nodes(listed: str) -> list[str]:
    """Expand SLURM's list of nodes: "gpu[01-03,07],login" is gpu01, gpu02, gpu03, gpu07, login."""
    entries = re.findall(r"(?:[^,\[]|\[[^\]]*\])+", listed)  # commas inside brackets do not separate
    found: list[str] = []
    for entry in entries:
        parts = re.split(r"\[([^\]]*)\]", entry)  # text, ranges, text, ranges, ..., text
        choices = [[part] for part in parts]
        for index in range(1, len(parts), 2):
            ends = [each.partition("-") for each in parts[index].split(",")]
            # the zeros of the first number say how wide all of them are
            choices[index] = [f"{n:0{len(a)}d}" for a, _, b in ends for n in range(int(a), int(b or a) + 1)]
        found += ["".join(chosen) for chosen in product(*choices)]
    return found
