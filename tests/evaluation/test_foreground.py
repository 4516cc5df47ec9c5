import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from dinokit.annotations.pairs import open_pairs
from dinokit.core.messages import UserError
from dinokit.dense.heads import load_head
from dinokit.dense.maps import frozen, predictor, prepared
from dinokit.evaluation import base
from dinokit.evaluation.foreground import Config, cell_shares, learn
from dinokit.models.pixels import PatchPixels
from dinokit.models.vit import VisionTransformer
from tests.evaluation.dense_data import squares

run = partial(base.measure, "foreground")

MakeVit = Callable[..., VisionTransformer]
PIXELS = PatchPixels(patch_size=4)


def test_bright_things_are_found_and_the_head_is_kept(tmp_path: Path) -> None:
    data = str(squares(tmp_path / "data", train=3, splits=False))
    result = run(PIXELS, Config(data=data, size=24, c=(1e-3, 1.0)), tmp_path / "out")
    assert result["AP"] == 100
    assert len(json.loads((tmp_path / "out" / "foreground.json").read_text())["AP of each"]) == 3
    head, about = load_head(tmp_path / "out" / "head")
    assert (about.task, about.short) == ("foreground", 24)
    image, mask = open_pairs(data).read(0)
    with frozen(PIXELS):
        found = predictor(PIXELS, head)(prepared(image, PIXELS, short=24))[0, 0].numpy()
    assert found[mask == 0].mean() < 0.2


def test_every_setting_changes_the_result_and_the_backbone_is_left_alone(tmp_path: Path, make_vit: MakeVit) -> None:
    data = str(squares(tmp_path, train=3, val=2))
    backbone, config = make_vit().train(), Config(data=data, size=24, c=(1e-3, 1.0))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}

    def weights(config: Config) -> torch.Tensor:
        return learn(backbone, config)[0].linear.weight

    first = weights(config)
    assert torch.equal(weights(config), first)
    for changed in (replace(config, split="val"), replace(config, size=32), replace(config, c=(1e-6,))):
        assert not torch.equal(weights(changed), first), changed
    assert backbone.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_an_image_is_judged_by_the_others_and_the_best_c_is_taken(tmp_path: Path) -> None:
    generator = numpy.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(3):  # labels by chance: 48 numbers per patch would learn the image's own by heart
        cells = generator.integers(0, 2, (6, 6)).astype(numpy.uint8)
        Image.fromarray(cells.repeat(4, 0).repeat(4, 1)).save(tmp_path / "masks" / f"{number}.png")
        noise = generator.integers(0, 256, (24, 24, 3)).astype(numpy.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{number}.png")
    cs = (1e-3, 1.0, 100.0)
    single = {c: run(PIXELS, Config(data=str(tmp_path), size=24, c=(c,)))["AP"] for c in cs}
    assert max(single.values()) < 80
    assert max(single.values()) > min(single.values()) + 0.5
    found = run(PIXELS, Config(data=str(tmp_path), size=24, c=cs))
    assert found["C"] == max(cs, key=lambda c: single[c])
    assert found["AP"] == pytest.approx(max(single.values()), abs=0.1)


def test_the_share_of_a_cell_counts_whole_cells_only() -> None:
    mask = numpy.zeros((4, 6), dtype=numpy.uint8)
    mask[:, 3:] = 2
    mask[0, 5] = 255
    found = cell_shares(mask, mask != 255, size=(4, 6), patch=2)
    torch.testing.assert_close(found[1], torch.tensor([0.0, 0.5, 1.0]))
    assert found[0, 2].isnan()
    # 5 columns of cells of 2: the last reaches beyond the image
    assert cell_shares(mask[:, :5].copy(), mask[:, :5] != 255, size=(4, 5), patch=2)[:, -1].isnan().all()


def test_masks_that_teach_nothing_are_clear_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 2 images"):
        run(PIXELS, Config(data=str(squares(tmp_path / "one", train=1, splits=False)), size=24))
    root = squares(tmp_path / "empty", train=2, splits=False)
    for path in (root / "masks").iterdir():
        Image.new("L", (32, 24)).save(path)
    with pytest.raises(UserError, match="no patch of .* is all foreground"):
        run(PIXELS, Config(data=str(root), size=24))


@pytest.mark.slow
def test_a_c_that_marks_nothing_is_not_taken_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(squares(tmp_path, train=3, splits=False))
    assert run(PIXELS, Config(data=data, size=24, c=(1e-9, 1.0)))["C"] == 1.0  # both rank all patches right
    assert "C 1 is the largest that was tried" in capsys.readouterr().err
    run(PIXELS, Config(data=data, size=24, c=(1e-9,)))
    assert "warning: no patch has a probability above 0.5" in capsys.readouterr().err
