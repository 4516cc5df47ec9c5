"""What srun says of a task becomes what torchrun would have said."""

import pytest

from dinokit.core import slurm

STEP = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "11",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
    "SLURM_STEP_NODELIST": "gpu[07-08],big1",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
}


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("node1", ["node1"]),
        ("a,b-2", ["a", "b-2"]),
        ("node[01-03,07]", ["node01", "node02", "node03", "node07"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("n[098-101].x,login", ["n098.x", "n099.x", "n100.x", "n101.x", "login"]),
        ("r[1-2]n[3,5]", ["r1n3", "r1n5", "r2n3", "r2n5"]),
    ],
)
def test_lists_of_nodes_are_expanded_in_order(listed: str, names: list[str]) -> None:
    assert slurm.nodes(listed) == names


def adopted(environment: dict[str, str]) -> dict[str, str]:
    """Return what a task is told that srun has not said."""
    own = dict(environment)
    slurm.adopt(own)
    return {name: value for name, value in own.items() if environment.get(name) != value}


def test_a_task_knows_its_place() -> None:
    assert adopted(STEP) == {
        "RANK": "9",
        "WORLD_SIZE": "11",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "13456",
    }


def test_all_tasks_meet_at_one_place_and_other_steps_elsewhere() -> None:
    def place(**changes: str) -> str:
        return adopted(STEP | changes)["MASTER_PORT"]

    assert place() == place(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0")
    assert len({place(), place(SLURM_JOB_ID="123457"), place(SLURM_STEP_ID="1")}) == 3
    assert 10_000 <= int(place(SLURM_JOB_ID="99999999")) < 30_000


def test_a_batch_script_and_a_task_of_its_own_are_no_ranks() -> None:
    script = {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "n[1-4]"}
    assert adopted(script) == {}
    assert adopted(STEP | {"SLURM_STEP_NUM_TASKS": "1"}) == {}


def test_what_is_set_already_stays() -> None:
    told = adopted(STEP | {"MASTER_ADDR": "10.0.0.1"})
    assert told["RANK"] == "9"
    assert "MASTER_ADDR" not in told
    assert adopted(STEP | {"RANK": "5"}) == {}
