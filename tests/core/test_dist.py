"""Collectives: the identity on one process, and on two what one process would compute."""

import errno
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as group

from dinokit.core import dist
from dinokit.core.gradients import Averaging
from tests.ranks import on_ranks


def test_without_a_process_group_collectives_are_the_identity() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert dist.all_gather(x) is x
    assert torch.equal(dist.all_reduce(x), x.detach())
    assert torch.equal(dist.all_reduce(x, largest=True), x.detach())
    assert (dist.rank(), dist.world_size()) == (0, 1)


def _refuse(*_: object) -> None:
    raise OSError(errno.EMFILE, "too many open files")


def _gather_on(rank: int, store: str) -> None:
    group.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    x = torch.arange(4.0).reshape(2, 2).add(10 * rank).requires_grad_()
    everything = dist.all_gather(x)  # [4, 2]
    assert everything[:, 0].tolist() == [0, 2, 10, 12]
    # each rank weighs the rows its own way; the gradient of a row sums both ranks' opinions
    (everything * (rank + 1)).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full((2, 2), 3.0))
    assert dist.all_reduce(torch.tensor(rank + 1.0)).item() == 3
    assert dist.all_reduce(torch.tensor(rank + 1.0), largest=True).item() == 2
    assert dist.any_rank(rank == 1, False, True) == (True, False, True)
    assert dist.gather_lists([rank] * (rank + 1)) == [0, 1, 1]

    shared = Averaging()
    for average in (dist.average_gradients, shared, shared):
        both, one, none = (torch.nn.Parameter(torch.zeros(size, 2)) for size in (99_999, 3, 1))
        both.grad = torch.full((99_999, 2), 2.0 + rank)
        one.grad = torch.full((3, 2), 4.0) if rank == 0 else None
        average([both, one, none])
        assert torch.equal(both.grad, torch.full((99_999, 2), 2.5))
        assert one.grad is not None
        assert one.grad.tolist() == [[2.0, 2.0]] * 3
        assert none.grad is None  # AdamW would decay what nobody has used
    assert shared._regions  # two processes of one machine

    for name in ("memfd_create", "ftruncate"):  # a rank is refused: all send messages
        with pytest.MonkeyPatch.context() as patch:
            if rank == 1:
                patch.setattr(os, name, _refuse)
            both.grad = torch.full((99_999, 2), 2.0 + rank)
            refused = Averaging()
            refused([both])
            assert torch.equal(both.grad, torch.full((99_999, 2), 2.5))
            assert not refused._regions
    group.destroy_process_group()


def _team_up_on(rank: int, store: str) -> None:
    rendezvous = {"backend": "gloo", "init_method": f"file://{store}", "rank": rank, "world_size": 4}
    dist.join(**rendezvous)
    team = dist.teams(2)
    assert (team.number, team.count) == (rank // 2, 2)
    x = torch.tensor([float(rank)], requires_grad=True)
    with dist.within(team.members):
        assert (dist.rank(), dist.world_size()) == (rank % 2, 2)
        everything = dist.all_gather(x)
        with dist.within(team.peers):
            assert (dist.rank(), dist.world_size()) == (rank // 2, 2)
            assert dist.gather_lists([rank]) == [rank % 2, rank % 2 + 2]
        assert dist.all_reduce(x).item() == (1, 5)[team.number]
        assert dist.all_reduce(x, largest=True).item() == (1, 3)[team.number]
        for average in (dist.average_gradients, Averaging()):
            weight = torch.nn.Parameter(torch.zeros(1))
            weight.grad = torch.full((1,), float(rank))
            average([weight])
            assert weight.grad.item() == (0.5, 2.5)[team.number]
    assert everything.tolist() == [[0, 1], [2, 3]][team.number]
    (everything * (rank + 1)).sum().backward()  # outside: the gradient goes back the way that the rows came
    assert x.grad is not None
    assert x.grad.item() == (3, 7)[team.number]
    assert (dist.rank(), dist.world_size()) == (rank, 4)
    own = {f"of {rank}": torch.full((rank + 1,), rank)} if rank % 2 else {}
    found = {name: value.tolist() for name, value in dist.shared(own, torch.device("cpu")).items()}
    assert found == {"of 1": [1, 1], "of 3": [3, 3, 3, 3]}
    dist.leave()


def test_a_team_is_the_world_while_it_is_entered(tmp_path: Path) -> None:
    on_ranks(_team_up_on, str(tmp_path / "store"), count=4)


def test_gathered_rows_are_in_rank_order_and_carry_gradient(tmp_path: Path) -> None:
    on_ranks(_gather_on, str(tmp_path / "store"))
