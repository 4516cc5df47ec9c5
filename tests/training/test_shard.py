"""Sharded networks take the steps of whole ones, and their checkpoints go on with any number of processes."""

import copy
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as group
from safetensors.torch import load_file
from torch import Tensor

from dinokit.checkpoints.store import MODEL, Clock, RunFolder
from dinokit.core import dist
from dinokit.core.messages import is_main
from dinokit.models.head import Config, Head
from dinokit.run import engine
from dinokit.training import execution
from dinokit.training.config import Experiment
from dinokit.training.step import Trainer
from dinokit.views.multicrop import Views
from tests.ranks import on_ranks, train_on_ranks
from tests.run.test_engine import config, final, losses
from tests.run.test_ranks import without_draws
from tests.training.test_step import CPU

TINY = without_draws(config(Path())).experiment
# with the recipe's init so narrow a network says nearly the same of all images: KoLeo would make a lot of rounding
EXPERIMENT = replace(TINY, backbone=replace(TINY.backbone, init="narrow", layer_scale=1.0))


@pytest.mark.slow
def test_a_run_goes_on_sharded_or_not_with_any_number_of_processes(photos: Path, tmp_path: Path) -> None:
    """Two sharded processes, after a crash a single one, after another crash two sharded ones again."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    engine.pretrain(without_draws(config(photos)), whole)

    def crash(step: int, path: Path) -> None:
        if step in crashes:
            crashes.remove(step)
            raise RuntimeError("power cut")

    crashes = [2, 4]
    sharded = without_draws(config(photos, processes=2, sharding="fsdp"))
    for settings in (sharded, without_draws(config(photos))):
        with pytest.raises(RuntimeError, match="power cut"):
            engine.pretrain(settings, run, on_checkpoint=crash)
    train_on_ranks(sharded, run)
    assert losses(run) == {step: pytest.approx(loss, rel=1e-4) for step, loss in losses(whole).items()}
    assert_close(RunFolder(run).load(6)[0], final(whole))
    assert_close(load_file(run / "model.safetensors"), load_file(whole / "model.safetensors"))
    kept = [path.name for step in (4, 6) for path in (run / "checkpoints" / str(step)).iterdir()]
    assert sorted(kept) == sorted(
        [*["checksums.json", "model.safetensors", "state.json"] * 2, "state.safetensors", "state"]
    )
    assert not (run / "checkpoints" / "2" / "state").exists()
    assert {path.suffix for path in run.rglob("checkpoints/6/state/*")} == {".safetensors", ".json"}  # no pickle


@pytest.mark.slow  # three starts of several processes
def test_sharded_processes_take_the_steps_of_one_and_hand_their_state_on(tmp_path: Path) -> None:
    """From one process to two sharded ones, which take three steps, to three, and back, to the bit.

    DINO, iBOT, KoLeo, two micro-batches, clipping. The third of three processes has no rows of some tensors.
    """
    alone = Trainer(EXPERIMENT, CPU)
    _steps(alone, 0, 1)
    torch.save(alone.state(), tmp_path / "before.pt")
    RunFolder(tmp_path).save(1, state=alone.state(), clock=Clock(step=1), models={MODEL: ({}, {})}, keep=9)
    on_ranks(_pass_on, tmp_path, count=3)
    after = torch.load(tmp_path / "after.pt")
    for step in (4, 5):  # written by two and by three
        assert_equal(RunFolder(tmp_path).load(step)[0], after)
    reports = _steps(alone, 1, 4)
    for line, other in zip(reports, torch.load(tmp_path / "reports.pt"), strict=True):
        assert other == pytest.approx(line, rel=1e-4)
    assert_close(after, alone.state())
    alone.load_state(RunFolder(tmp_path).load(5)[0])
    assert_equal(alone.state(), after)
    _check_damage(RunFolder(tmp_path))


def _check_damage(run: RunFolder) -> None:
    """A part that is gone or cut short makes way for an older checkpoint."""
    parts = {step: sorted(run.checkpoint(step).glob("state/*.safetensors")) for step in (4, 5)}
    assert [len(each) for each in parts.values()] == [2, 3]
    parts[5][2].unlink()
    (line,) = run.set_damaged_aside()
    assert "safetensors is missing" in line
    assert "continuing from step 4" in line
    parts[4][0].write_bytes(parts[4][0].read_bytes()[:-4])
    (line,) = run.set_damaged_aside()
    assert "continuing from step 1" in line


def test_a_single_process_says_that_it_has_nothing_to_share(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.pretrain(config(photos, steps=1, sharding="fsdp"), tmp_path / "run")
    assert "runtime.sharding has no effect in a single process" in capsys.readouterr().err
    assert final(tmp_path / "run")


def assert_close(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Float32 rounding is all that differs; AdamW makes noise in the weights of noise in tiny gradients."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert right[name].dtype == value.dtype
        if value.is_floating_point() and value.norm():
            assert float((right[name] - value).norm() / value.norm()) < 1e-2, name


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Bit by bit."""
    assert left.keys() == right.keys()
    assert [name for name, value in left.items() if not torch.equal(value, right[name])] == []


def _pass_on(rank: int, folder: Path) -> None:
    """Two of three processes read a whole state, step, write; then three read that and write."""
    torch.set_num_threads(1)
    if rank < 2:
        _join(rank, 2, folder)
        _check_heads()
        _check_bf16()  # both blocks in one message, as in the runs above
    execution.MESSAGE = 0  # from here on every block by itself
    if rank < 2:
        trainer = _sharded(replace(EXPERIMENT, seed=1))
        _read(trainer, folder, 1, torch.load(folder / "before.pt"))
        rows = [dist.own_rows(parameter) for parameter in trainer.backbone.student.parameters()]
        held = sum(row.numel() for row in rows)
        assert held < 0.52 * sum(parameter.numel() for parameter in trainer.backbone.student.parameters())
        assert {row.dtype for row in rows} == {torch.float32}
        torch.save(_steps(trainer, 1, 4), folder / "reports.pt")
        _write(trainer, folder, 4, folder / "after.pt")
        dist.leave()
    _join(rank, 3, folder)
    trainer = _sharded(replace(EXPERIMENT, seed=2))
    _read(trainer, folder, 4, torch.load(folder / "after.pt"))
    _write(trainer, folder, 5, folder / "again.pt")
    dist.leave()


def _join(rank: int, world: int, folder: Path) -> None:
    os.environ["RANK"] = str(rank)  # who writes
    store = group.FileStore(str(folder / f"store{world}"), world)
    dist.join(backend="gloo", store=store, rank=rank, world_size=world)


def _sharded(experiment: Experiment) -> Trainer:
    return Trainer(experiment, CPU, sharded=True)


def _steps(trainer: Trainer, start: int, stop: int) -> list[dict[str, float]]:
    """Take steps of two micro-batches, of which this rank has its share, and return what they measured."""
    return [trainer.step([_own_views(step), _own_views(step + 100)], step=step).values for step in range(start, stop)]


def _own_views(seed: int) -> Views:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(2, 6, 16, generator=generator) < 0.3
    crops = (torch.randn(2, 6, 3, 16, 16, generator=generator), torch.randn(2, 6, 3, 8, 8, generator=generator))
    return Views(*(part.chunk(dist.world_size(), dim=1)[dist.rank()] for part in (*crops, masks)))


def _all_rows(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def _read(trainer: Trainer, folder: Path, step: int, expected: dict[str, Tensor]) -> None:
    trainer.load_state(RunFolder(folder).load(step, trainer.layout)[0])
    assert_equal({name: _all_rows(value) for name, value in trainer.state().items()}, expected)


def _write(trainer: Trainer, folder: Path, step: int, reference: Path) -> None:
    whole = execution.whole(trainer.state())
    if is_main():
        torch.save(whole, reference)
    RunFolder(folder).save(step, state=trainer.state(), clock=Clock(step=step), models={MODEL: ({}, {})}, keep=9)
    dist.barrier()


def _check_heads() -> None:
    """An objective may call a head, or project twice and multiply by the prototypes itself, between two releases."""
    plain = Head(8, Config(hidden=12, bottleneck=6, prototypes=10), seed=0)
    head = copy.deepcopy(plain)
    execution.shard(head, CPU, bf16=True)
    images = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def loss(head: Head, images: Tensor) -> Tensor:
        scores = [head.project(part) @ head.last_layer.weight.T for part in (images, images + 1)]
        return sum(score.logsumexp(-1).mean() for score in (*scores, head(images * 2)))  # type: ignore[return-value]

    for _ in range(2):  # gradients of two micro-batches are summed
        loss(plain, images).backward()
        loss(head, images.chunk(2)[dist.rank()]).backward()
        execution.release([head])
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None
        expected = plain.get_parameter(name).grad
        torch.testing.assert_close(_all_rows(parameter.grad), expected, rtol=1e-4, atol=1e-6, msg=name)


def _check_bf16() -> None:
    """Matrices of blocks that travel in bfloat16 are those that autocast makes; only sums of gradients differ."""
    experiment = replace(EXPERIMENT, precision="bf16")
    one, other = (_steps(trainer, 0, 1)[0] for trainer in (Trainer(experiment, CPU), _sharded(experiment)))
    assert other == pytest.approx(one, rel=5e-3)
