"""A model is given by its path or its name, and what is none is refused before anything is written."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dinokit
from dinokit.core.messages import UserError
from dinokit.models.vit import VisionTransformer


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (dinokit.embed, {"out": "e"}),
        (partial(dinokit.evaluate, "knn"), {}),
        (dinokit.predict, {"out": "p", "train_masks": "masks"}),
    ],
    ids=["embed", "evaluate", "predict"],
)
def test_a_loaded_model_is_refused_in_a_line_that_says_what_is_expected(
    make_vit: Callable[..., VisionTransformer], tmp_path: Path, verb: Callable[..., Any], options: dict[str, str]
) -> None:
    places = {name: tmp_path / value for name, value in options.items()}
    with pytest.raises(UserError) as refused:
        verb(model=make_vit(), data=str(tmp_path), **places)
    said = "expected the path of a run folder or a weights file, or a name, got a VisionTransformer"
    assert str(refused.value) == said
    assert list(tmp_path.iterdir()) == []
