"""Sweeps go on after a kill as if there had been none, and with nothing else than what they began with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinokit.core.messages import UserError
from dinokit.dense import sweep
from dinokit.dense.sweep import Batches, train
from tests.dense.test_grid import MEMBERS, batches, made


def test_a_training_that_was_interrupted_goes_on_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SAVE_EVERY", 5)
    whole = made(MEMBERS, optimizer="adamw")
    train(whole, batches())

    class Killed(Exception):
        pass

    def until(last: int) -> Batches:
        def found(first: int) -> Iterator[tuple[Tensor, Tensor]]:
            for step, batch in enumerate(batches()(first), start=first):
                if step == last:
                    raise Killed
                yield batch

        return found

    for last in (3, 7, 11):
        with pytest.raises(Killed):
            train(made(MEMBERS, optimizer="adamw"), until(last), folder=tmp_path, stamp={"data": 1})
    parts = made(MEMBERS, optimizer="adamw")
    train(parts, batches(), folder=tmp_path, stamp={"data": 1})
    again = made(MEMBERS, optimizer="adamw")
    train(again, until(0), folder=tmp_path, stamp={"data": 1})  # nothing is left to do
    for grid in (parts, again):
        for index in range(len(MEMBERS)):
            assert torch.equal(whole.head(index)[0], grid.head(index)[0])
    with pytest.raises(UserError, match="made with other data"):
        train(made(MEMBERS, optimizer="adamw"), batches(), folder=tmp_path, stamp={"data": 2})
    (tmp_path / "training.pt").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read"):
        train(made(MEMBERS), batches(), folder=tmp_path)
