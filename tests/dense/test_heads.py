import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.core.ownership import digest_of_model, digest_of_weights
from dinokit.dense.heads import About, check_model, load_head, save_head
from dinokit.dense.segmentation import Config, LinearHead
from dinokit.images.intensity import Pixels
from dinokit.models import vit
from dinokit.models.vit import VisionTransformer

MakeVit = Callable[..., VisionTransformer]
DETAILS = {"classes": ["a", "b", "c"], "colours": [[0, 0, 0], [1, 1, 1], [2, 2, 2]]}
ABOUT = About(
    task="segmentation", model="m", digest="d", layers=(0, 2), short=512, crop=512, stride=341, details=DETAILS
)


def test_a_head_comes_back_as_it_was(tmp_path: Path, make_vit: MakeVit) -> None:
    head = LinearHead(Config(width=32, outputs=3), seed=1).train()
    features = make_vit().intermediate(torch.rand(2, 3, 8, 8), 2)
    head(features)  # moves the statistics of its norm
    save_head(tmp_path / "head", head, ABOUT)
    loaded, about = load_head(tmp_path / "head")
    assert about == ABOUT
    assert torch.equal(loaded(features), head.eval()(features))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_head_knows_the_model_it_belongs_to(make_vit: MakeVit) -> None:
    about = About(task="depth", model="runs/a", digest=digest_of_weights(make_vit()))
    check_model(about, make_vit(), model="runs/copy")
    with pytest.raises(UserError, match="trained on runs/a, whose weights are not those of runs/b"):
        check_model(about, make_vit(seed=1), model="runs/b")


def test_the_same_weights_with_other_heads_of_attention_are_another_model() -> None:
    """Learned positions have no shape that tells the heads: four read as two give other features."""
    config = vit.Config(patch_size=4, dim=16, depth=1, heads=2, ffn_hidden=32, position="offset", position_grid=4)
    two, four = VisionTransformer(config), VisionTransformer(replace(config, heads=4))
    assert digest_of_weights(two) == digest_of_weights(four)
    about = About(task="depth", model="runs/a", digest=digest_of_model(two))
    check_model(about, two, model="runs/a")
    with pytest.raises(UserError, match="trained on runs/a"):
        check_model(about, four, model="runs/a")
    two.pixels = Pixels(white=4095.0)
    with pytest.raises(UserError, match="trained on runs/a, whose settings or pixels are not those"):
        check_model(about, two, model="runs/a")
    early = replace(about, digest=digest_of_weights(two))  # as it was written before heads were told apart
    check_model(early, two, model="runs/a")


def test_what_is_no_head_is_a_clear_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no head \(no head.json\)"):
        load_head(tmp_path)
    save_head(tmp_path, LinearHead(Config(width=4, outputs=3)), ABOUT)
    plain = json.loads((tmp_path / "head.json").read_text())
    for change, message in (
        ({"kind": "liner"}, "did you mean 'linear'"),
        ({"strange": 1}, "does not describe a head"),
        ({"config": {"width": 5, "outputs": 3}}, "does not fit head.json"),
    ):
        (tmp_path / "head.json").write_text(json.dumps(plain | change))
        with pytest.raises(UserError, match=message):
            load_head(tmp_path)


@pytest.mark.parametrize("lacks", ["task", "digest", "layers", "kind", "config", "details"])
def test_a_head_that_lacks_a_field_is_a_clear_mistake(lacks: str, tmp_path: Path) -> None:
    save_head(tmp_path, LinearHead(Config(width=4, outputs=3)), ABOUT)
    plain = json.loads((tmp_path / "head.json").read_text())
    del plain[lacks]
    (tmp_path / "head.json").write_text(json.dumps(plain))
    with pytest.raises(UserError, match="does not describe a head"):
        load_head(tmp_path)
