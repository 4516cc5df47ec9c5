"""Layers of a detector: gradients of few rows, and in the place of others."""

import torch
from torch import nn

from dinokit.dense.detr.layers import mlp, rarely


def test_rows_that_are_not_asked_take_no_part_in_a_gradient_that_is_the_same() -> None:
    torch.manual_seed(0)
    network, rows = mlp(4, 8, 3), torch.randn(2, 5, 4, requires_grad=True)
    sent: list[int] = []
    network.register_forward_pre_hook(lambda _, given: sent.append(len(given[0])))
    whole, few = network(rows), rarely(network, rows)
    torch.testing.assert_close(few, whole)
    given = [rows, *network.parameters()]
    for asked in ((torch.tensor([0, 1, 1]), torch.tensor([2, 0, 4])), (torch.tensor([], dtype=torch.int64),) * 2):
        wanted, found = (
            torch.autograd.grad(each[asked].square().sum(), given, retain_graph=True) for each in (whole, few)
        )
        torch.testing.assert_close(found, wanted)
    assert sent == [2, 10, 3, 0]  # all together, all as rows, and once more those that were asked


def test_networks_that_work_in_place_learn_as_plain_ones() -> None:
    torch.manual_seed(0)
    network, rows = mlp(4, 8, 8, 3), torch.randn(5, 4, requires_grad=True)
    plain = nn.Sequential(*(each if isinstance(each, nn.Linear) else nn.ReLU() for each in network))
    given = [rows, *network.parameters()]
    found, wanted = (torch.autograd.grad(each(rows).square().sum(), given) for each in (network, plain))
    torch.testing.assert_close(found, wanted)
