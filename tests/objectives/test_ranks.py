"""What the objectives compute across ranks: two gloo processes against one with all the images."""

from pathlib import Path

import torch
import torch.distributed as group

from dinokit.objectives import assign
from dinokit.objectives.koleo import koleo
from tests.ranks import on_ranks


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _check(rank: int, store: str, expected: dict[str, torch.Tensor]) -> None:
    torch.set_num_threads(1)
    group.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)

    scores = _draw(7, 5) * 0.2
    for split in (2, 7):  # unequal, and a rank without a sample
        mine = slice(0, split) if rank == 0 else slice(split, 7)
        targets = assign.sinkhorn(scores[mine], temperature=0.05)
        torch.testing.assert_close(targets, expected["sinkhorn"][mine], atol=1e-6, rtol=1e-5)

    # every rank that has samples counts the same, however many they are
    mean = assign.mean_over_ranks(scores[:2] if rank == 0 else scores[2:], otherwise=scores[0])
    torch.testing.assert_close(mean, (scores[:2].mean(dim=0) + scores[2:].mean(dim=0)) / 2)
    mean = assign.mean_over_ranks(scores if rank == 0 else scores[:0], otherwise=scores[0])
    torch.testing.assert_close(mean, scores.mean(dim=0))
    mean = assign.mean_over_ranks(scores[:0], otherwise=scores[0])
    torch.testing.assert_close(mean, scores[0])

    # groups of 4 span both ranks, and the gradient of an image counts what the other rank's images say of it
    images = _draw(4, 6).chunk(2)[rank].requires_grad_()
    loss = koleo(images, group=4, neighbours=2)
    loss.backward()
    group.all_reduce(loss.detach_())
    torch.testing.assert_close(loss / 2, expected["koleo"])
    assert images.grad is not None
    torch.testing.assert_close(images.grad / 2, expected["koleo_gradient"].chunk(2)[rank])
    group.destroy_process_group()


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    images = _draw(4, 6).requires_grad_()
    loss = koleo(images, neighbours=2)
    loss.backward()
    assert images.grad is not None
    expected = {
        "sinkhorn": assign.sinkhorn(_draw(7, 5) * 0.2, temperature=0.05),
        "koleo": loss.detach(),
        "koleo_gradient": images.grad,
    }
    on_ranks(_check, str(tmp_path / "store"), expected)
