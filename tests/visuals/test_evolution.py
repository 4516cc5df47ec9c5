from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import header
from dinokit.core.messages import UserError
from dinokit.dense.draw import heat
from dinokit.features.embedding import unit
from dinokit.looks.field import Field
from dinokit.looks.similarity import MARK
from dinokit.visuals.evolution import evolve, fields_of, map_side, marked, strips
from dinokit.visuals.gallery import Pictures, choose_pictures
from dinokit.visuals.page import data_uri
from dinokit.visuals.record import read_record
from tests.vits import ARCHITECTURE

MakeFolder = Callable[..., Path]
STEPS = (0, 10, 100)


@pytest.fixture
def run(make_run: MakeFolder, make_folder: MakeFolder) -> Path:
    return make_run(str(make_folder(*(f"{label}/{i}.png" for label in "abc" for i in range(4)))))


def opened(run: Path) -> tuple[dict[int, Path], Pictures]:
    record = read_record(run)
    return dict(record.checkpoints), choose_pictures(record.setting("experiment.data.source"), record.checkpoints[100])


def spoil(run: Path, step: int) -> None:
    """Make the weights of a checkpoint so large that its features overflow."""
    path = run / "checkpoints" / str(step) / "model.safetensors"
    weights = {name: torch.full_like(value, 1e30) for name, value in load_file(path).items()}
    save_file(weights, path, header(ARCHITECTURE, load(path.parent).pixels, step=step))


def test_cosines_are_those_with_the_marked_patch_of_the_last_checkpoint(run: Path) -> None:
    checkpoints, pictures = opened(run)
    seen, marks, left_out = evolve(checkpoints, pictures)
    assert [one.step for one in seen] == [0, 10, 100]
    assert left_out == []
    fields = fields_of(checkpoints[10], pictures)
    for number, (each, mark) in enumerate(zip(fields, marks, strict=True)):
        vectors = unit(each.patches.flatten(0, 1))
        cosines = vectors @ vectors[mark[0] * each.patches.shape[1] + mark[1]]
        torch.testing.assert_close(seen[1].cosines[number].flatten(), cosines)


def test_a_mark_has_one_scale_through_all_checkpoints(run: Path) -> None:
    checkpoints, pictures = opened(run)
    seen, marks, _ = evolve(checkpoints, pictures)
    page = strips(pictures, seen, marks, {0: "then", 10: "later", 100: "now"})
    for number, mark in enumerate(marks):
        low = min(float(each.cosines[number].min()) for each in seen)
        assert f"<figcaption>from {low:.2f} to 1.00</figcaption>".replace("-", "\N{MINUS SIGN}") in page
        for each in seen:
            drawn = torch.from_numpy(heat(((each.cosines[number] - low) / (1 - low)).clamp(0, 1).numpy()))
            drawn[mark] = torch.tensor(MARK, dtype=torch.uint8)
            assert data_uri(drawn) in page


def test_checkpoints_of_one_network_have_one_picture(run: Path) -> None:
    checkpoints, pictures = opened(run)
    seen, _, _ = evolve({0: checkpoints[100], 100: checkpoints[100]}, pictures)
    assert (seen[0].colours[0] == seen[1].colours[0]).all()


def test_the_patch_that_is_unlike_the_borders_is_marked_within_the_middle() -> None:
    patches = torch.zeros(8, 8, 4)
    patches[..., 0] = 1.0
    patches[5, 2] = patches[0, 0] = torch.tensor([-1.0, 0, 0, 0])  # the corner is no place to mark
    assert marked(Field("a", torch.zeros(3, 8, 8, dtype=torch.uint8), patches, (8, 8))) == (5, 2)
    assert marked(Field("a", torch.zeros(3, 1, 1, dtype=torch.uint8), patches[:1, :1], (1, 1))) == (0, 0)


def test_a_checkpoint_that_cannot_be_used_is_left_out_and_named(run: Path) -> None:
    checkpoints, pictures = opened(run)
    spoil(run, 100)
    (run / "checkpoints" / "0" / "model.safetensors").write_bytes(b"cut")
    seen, marks, left_out = evolve(checkpoints, pictures)
    assert [one.step for one in seen] == [10]
    assert [line.split(":")[0] for line in left_out] == ["Step 0 is left out", "Step 100 is left out"]
    assert "not finite" in left_out[1]
    assert strips(pictures, seen, marks, dict.fromkeys(STEPS, "x")).count("<img") == 8 * 4
    spoil(run, 10)
    with pytest.raises(UserError, match="left out"):
        evolve(checkpoints, pictures)


def test_small_pictures_are_enlarged_until_a_map_shows_something() -> None:
    assert map_side(224, 16) == 224
    assert map_side(64, 8) == 128
    assert map_side(28, 14) == 112  # twice doubled at most
