"""Grids of heads: each head of one is that of torch's own layers, losses and optimisers, trained by itself."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dinokit.core.messages import UserError
from dinokit.dense import grid as grids
from dinokit.dense.grid import Grid, Layout, Member, Training
from dinokit.dense.sweep import Batches, train
from dinokit.models.classifier import Reading

LAYOUT = Layout(blocks=4, dim=6, mean=5)
READINGS = [Reading(blocks=count, mean_patch=mean) for count in (1, 2, 4) for mean in (False, True)]
MEMBERS = [
    Member(reading=reading, lr=lr, weight_decay=decay) for reading in READINGS for lr, decay in ((0.3, 0.0), (0.1, 0.1))
]
CPU, CLASSES, STEPS = torch.device("cpu"), 3, 12


def made(members: list[Member], *, optimizer: str = "sgd", loss: str = "ce", steps: int = STEPS) -> Grid:
    training = Training(iterations=steps, optimizer=optimizer, loss=loss, seed=1)  # type: ignore[arg-type]
    return Grid(members, LAYOUT, classes=CLASSES, training=training, device=CPU)


def batches(*, several: bool = False, loss: str = "ce") -> Batches:
    def found(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        step = first
        while True:
            draw = torch.Generator().manual_seed(step)
            rows, labels = torch.randn(16, 29, generator=draw), torch.randint(0, CLASSES, (16,), generator=draw)
            shown = torch.rand(16, CLASSES, generator=draw) + nn.functional.one_hot(labels, CLASSES) > 0.5
            shares = shown / shown.sum(dim=1, keepdim=True) if loss == "ce" else shown.float()
            yield rows, shares if several else labels
            step += 1

    return found


def alone(member: Member, *, optimizer: str, loss: str, several: bool) -> nn.Linear:
    """One head as torch trains it."""
    weight, bias = made([member], optimizer=optimizer, loss=loss).head(0)
    head = nn.Linear(weight.shape[1], CLASSES)
    head.load_state_dict({"weight": weight.clone(), "bias": bias.clone()})
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    options = {"momentum": 0.9} if optimizer == "sgd" else {}
    descent = kind(head.parameters(), lr=member.lr, weight_decay=member.weight_decay, **options)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(descent, STEPS)
    judge = nn.CrossEntropyLoss() if loss == "ce" else nn.BCEWithLogitsLoss()
    stream = batches(several=several, loss=loss)(0)
    for _ in range(STEPS):
        rows, targets = next(stream)
        wanted = targets if several or loss == "ce" else nn.functional.one_hot(targets, CLASSES).float()
        # by hand: the last n blocks of 6 numbers, then 5 of the mean patch
        count, mean = member.reading.blocks, member.reading.mean_patch
        seen = torch.cat([rows[:, (4 - count) * 6 : 24], rows[:, 24:] if mean else rows[:, :0]], dim=1)
        descent.zero_grad()
        judge(head(seen), wanted).backward()
        descent.step()
        slower.step()
    return head


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("loss", "several"), [("ce", False), ("bce", False), ("bce", True), ("ce", True)])
def test_every_head_is_the_one_that_torch_trains_alone(optimizer: str, loss: str, *, several: bool) -> None:
    grid = made(MEMBERS, optimizer=optimizer, loss=loss)
    train(grid, batches(several=several, loss=loss))
    for index, member in enumerate(grid.members):
        weight, bias = grid.head(index)
        expected = alone(member, optimizer=optimizer, loss=loss, several=several)
        # AdamW divides by square roots of sums that are near 0 at first
        tolerance = 2e-5 if optimizer == "adamw" else 2e-6
        assert weight.flatten().tolist() == pytest.approx(expected.weight.flatten().tolist(), abs=tolerance)
        assert bias.tolist() == pytest.approx(expected.bias.tolist(), abs=tolerance)


def test_a_head_of_a_grid_is_the_head_trained_alone_whatever_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = made(MEMBERS)
    train(grid, batches())
    for index in (0, 7, 11):
        one = made([grid.members[index]])
        train(one, batches())
        assert grid.head(index)[0].flatten().tolist() == pytest.approx(one.head(0)[0].flatten().tolist(), abs=1e-6)
    monkeypatch.setitem(grids.devices.SLICE, "cpu", 1)  # one head at a time
    slow = made(MEMBERS)
    train(slow, batches())
    answers, rows = grid.answers(next(batches()(99))[0]), next(batches()(99))[0]
    assert answers.tolist() == slow.answers(rows).tolist()


def test_the_same_seed_gives_the_same_bits_and_another_others() -> None:
    first, again = made(MEMBERS), made(MEMBERS)
    train(first, batches())
    train(again, batches())
    for one, other in zip(first.state(), again.state(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    other = Grid(
        MEMBERS,
        LAYOUT,
        classes=CLASSES,
        training=Training(iterations=STEPS, optimizer="sgd", loss="ce", seed=2),
        device=CPU,
    )
    assert not torch.equal(other.head(0)[0], made(MEMBERS).head(0)[0])


def test_a_head_that_diverges_stays_alone() -> None:
    calm = [
        Member(reading=READINGS[0], lr=0.1, weight_decay=0.0),
        Member(reading=READINGS[0], lr=0.2, weight_decay=0.0),
    ]
    wild = Member(reading=READINGS[0], lr=3e38, weight_decay=0.0)
    grid = made([calm[0], wild, calm[1]])
    train(grid, batches())
    assert grid.finite().tolist() == [True, False, True]
    quiet = made(calm)
    train(quiet, batches())
    assert grid.head(2)[0].flatten().tolist() == pytest.approx(quiet.head(1)[0].flatten().tolist(), abs=1e-6)
    with pytest.raises(UserError, match="all heads have diverged, at the learning rates 3e\\+38"):
        train(made([wild]), batches())


def test_losses_are_those_of_torch() -> None:
    rows, labels = next(batches()(5))
    _, shown = next(batches(several=True, loss="bce")(5))
    for loss, targets in (("ce", labels), ("bce", shown)):
        grid = made(MEMBERS, loss=loss)
        found = grid.losses(rows, targets).tolist()
        for index, member in enumerate(grid.members):
            weight, bias = grid.head(index)
            logits = nn.functional.linear(rows[:, LAYOUT.columns(member.reading)], weight, bias)
            judge = nn.CrossEntropyLoss() if loss == "ce" else nn.BCEWithLogitsLoss()
            assert found[index] == pytest.approx(judge(logits, targets).item(), abs=1e-6)


def test_what_was_trained_on_standard_numbers_is_said_of_the_numbers_themselves() -> None:
    rows = next(batches()(7))[0] * 3 + 5
    grid = made(MEMBERS)
    train(grid, batches())
    before = grid.answers((rows - 5) / 3)
    grid.undo(torch.full((29,), 5.0), torch.full((29,), 3.0))
    assert torch.equal(grid.answers(rows), before)


def test_what_is_left_open_moves_nothing() -> None:
    def found(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, shown in batches(several=True, loss="bce")(first):
            yield rows, torch.cat([shown[:, :2], torch.full((16, 1), torch.nan)], dim=1)

    grid = made(MEMBERS[:1], loss="bce")
    before = grid.head(0)[0].clone()
    train(grid, found)
    moved = (grid.head(0)[0] != before).any(dim=1)
    assert moved.tolist() == [True, True, False]
    assert grid.losses(*next(found(0))).isfinite().all()
