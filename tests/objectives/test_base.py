"""Finding objectives by file name, and adding up their losses."""

import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.objectives import base, koleo


def test_files_that_define_an_objective_are_found_and_others_are_not() -> None:
    assert {"dino", "ibot", "koleo"} <= set(base.names())
    assert not {"base", "assign"} & set(base.names())
    assert base.find("koleo") is koleo


@pytest.mark.parametrize("name", ["koleoo", "base", "os"])
def test_an_unknown_objective_is_the_users_error(name: str) -> None:
    with pytest.raises(UserError, match="koleo"):
        base.find(name)


def test_the_total_is_the_weighted_sum() -> None:
    losses = base.Losses(
        terms={"a": torch.tensor(2.0), "b": torch.tensor(3.0)}, weights={"b": 10.0, "a": 0.5}, statistics={}
    )
    assert losses.total.item() == 31
