"""Tracking: what moves is followed, what stands still stays, and a second start computes nothing again."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dinokit import cli
from dinokit.checkpoints.store import header
from dinokit.core.messages import UserError
from dinokit.dense import tracking as masks
from dinokit.dense.tracking import Rule, one_hot, read_out
from dinokit.evaluation import base, tracking
from dinokit.evaluation.tracking import Config
from dinokit.models import vit
from dinokit.models.pixels import PatchPixels
from tests.conftest import MakeVit

run = partial(base.measure, "tracking")

SIDE = 64


def clips(root: Path, *, frames: int = 6, step: int = 4) -> Path:
    """A textured square that moves over another texture, in DAVIS layout, and the truth."""
    draw = np.random.default_rng(0)
    back, front = (draw.integers(0, 256, (side, 96, 3), dtype=np.uint8) for side in (SIDE, 24))
    front[..., 1:] //= 8  # what the square uncovers is like the rest of the background
    back[..., 0] //= 8
    for number in range(frames):
        image, mask = back.copy(), np.zeros((SIDE, 96), dtype=np.uint8)
        left = 8 + step * number
        image[16:40, left : left + 24], mask[16:40, left : left + 24] = front[:, :24], 3
        for kind, ending, value in (("JPEGImages", "png", image), ("Annotations", "png", mask)):
            path = root / kind / "480p" / "square" / f"{number:05d}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(value).save(path)
    return root


def test_a_moving_object_is_followed(tmp_path: Path) -> None:
    config = Config(data=str(clips(tmp_path)), short=SIDE, rule=Rule(radius=3, neighbours=1))
    result = run(PatchPixels(patch_size=4), config)
    assert result["J"] > 99  # corners are round after the bilinear way back
    assert result["J&F"] > 99
    assert (result["objects"], result["videos"], result["frames"]) == (1, 1, 6)
    lost = run(PatchPixels(patch_size=4), replace(config, rule=Rule(radius=0, neighbours=1)))
    assert lost["J"] < 80  # nothing may move


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_mask_on_the_grid_comes_back_as_it_was(mode: str) -> None:
    mask = np.zeros((32, 48), dtype=np.uint8)
    mask[8:16, 16:32], mask[24:, :8] = 5, 9
    labels = one_hot(mask, [0, 5, 9], (8, 12))
    found = read_out(labels, [0, 5, 9], (32, 48), mode=mode)  # type: ignore[arg-type]
    wrong = (found != mask).mean()
    assert wrong == 0 if mode == "nearest" else wrong < 0.02


def test_an_object_that_is_nowhere_is_not_stretched_over_the_frame() -> None:
    labels = torch.zeros(4, 4, 3)
    labels[..., 0] = 1
    labels[0, 0] = torch.tensor([0.2, 0.8, 0.0])
    found = read_out(labels, [0, 1, 2], (16, 16), mode="nearest")
    assert set(np.unique(found).tolist()) == {0, 1}


@pytest.mark.parametrize("film", ["overlay.mp4", "overlay.webp"])
def test_frames_overlays_and_a_film_are_written_and_not_computed_again(
    film: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if film == "overlay.webp":
        monkeypatch.setattr(masks, "find_spec", lambda _: None)
    data, out = clips(tmp_path / "data"), tmp_path / "out"
    config = Config(data=str(data), short=SIDE)
    first = run(PatchPixels(patch_size=8), config, out)
    for kind, ending in (("masks", "png"), ("overlay", "jpg")):
        assert len(list((out / "square" / kind).glob(f"*.{ending}"))) == 6
    assert _frames(out / "square" / film) == 6
    with Image.open(out / "square" / "masks" / "00003.png") as mask:
        assert mask.mode == "P"
    assert (out / "tracking.json").is_file()
    monkeypatch.setattr(tracking, "patches", lambda *_, **__: pytest.fail("computed again"))
    assert run(PatchPixels(patch_size=8), config, out) == first


def _frames(film: Path) -> int:
    if film.suffix == ".mp4":
        with av.open(str(film)) as container:
            return sum(1 for _ in container.decode(video=0))
    with Image.open(film) as animation:
        return getattr(animation, "n_frames", 1)


def test_a_video_that_was_not_finished_is_begun_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    left = out / ".square.part" / "masks"
    left.mkdir(parents=True)
    (left / "99999.png").write_bytes(b"half")
    run(PatchPixels(patch_size=8), Config(data=str(clips(tmp_path / "data")), short=SIDE), out)
    assert not left.exists()
    assert not (out / "square" / "masks" / "99999.png").exists()


def test_without_further_masks_there_is_a_video_but_no_score(tmp_path: Path) -> None:
    data = clips(tmp_path / "data")
    frames, mask = data / "JPEGImages" / "480p" / "square", data / "Annotations" / "480p" / "square" / "00000.png"
    result = run(PatchPixels(patch_size=8), Config(data=str(frames), mask=str(mask), short=SIDE), tmp_path / "out")
    assert result == {"videos": 1, "frames": 6}


def test_a_video_without_truth_is_not_compared_with_baselines(tmp_path: Path, make_vit: MakeVit) -> None:
    data, backbone = clips(tmp_path / "data", frames=2), make_vit()
    save_file(backbone.state_dict(), tmp_path / "m.safetensors", header(backbone.config, backbone.pixels, step=0))
    words = ["evaluate", "tracking", "--model", str(tmp_path / "m.safetensors"), "--short", str(SIDE)]
    frames, mask = data / "JPEGImages" / "480p" / "square", data / "Annotations" / "480p" / "square" / "00000.png"
    assert cli.run([*words, "--data", str(frames), "--mask", str(mask), "--out", str(tmp_path / "result.json")]) == 0
    assert len(json.loads((tmp_path / "result.json").read_text())["results"]) == 1


def test_a_transformer_tracks_at_any_size(tmp_path: Path) -> None:
    backbone = vit.VisionTransformer(vit.Config(patch_size=8, dim=16, depth=1, heads=2, ffn_hidden=32))
    data = str(clips(tmp_path, frames=3))
    result = run(backbone, Config(data=data, short=50))  # 48 x 72 px
    assert 0 <= result["J"] <= 100


def test_a_video_whose_first_mask_is_empty_begins_with_the_first_that_is_not(tmp_path: Path) -> None:
    data = clips(tmp_path)
    Image.new("L", (96, SIDE)).save(data / "Annotations" / "480p" / "square" / "00000.png")
    result = run(PatchPixels(patch_size=4), Config(data=str(data), short=SIDE, rule=Rule(radius=3, neighbours=1)))
    assert (result["objects"], result["frames"]) == (1, 5)
    assert result["J"] > 99


def test_an_object_that_enters_later_is_followed_from_there_and_scored_from_the_next_frame(tmp_path: Path) -> None:
    data = clips(tmp_path)
    masks = data / "Annotations" / "480p" / "square"
    for number in range(2, 6):  # a second object, of pixels that stand still
        path = masks / f"{number:05d}.png"
        with Image.open(path) as image:
            mask = np.array(image)
        mask[48:60, 4:40] = 1
        Image.fromarray(mask).save(path)
    result = run(PatchPixels(patch_size=4), Config(data=str(data), short=SIDE, rule=Rule(radius=3, neighbours=1)))
    assert result["objects"] == 2
    assert result["J"] > 99
    out = tmp_path / "out"
    run(PatchPixels(patch_size=4), Config(data=str(data), short=SIDE), out)
    shown = [
        set(np.unique(np.array(Image.open(path))).tolist()) for path in sorted((out / "square" / "masks").iterdir())
    ]
    assert shown[:3] == [{0, 3}, {0, 3}, {0, 1, 3}]


def test_davis_counts_the_numbers_that_no_mask_shows(tmp_path: Path) -> None:
    config = Config(data=str(clips(tmp_path)), short=SIDE, rule=Rule(radius=0, neighbours=1))
    shown = run(PatchPixels(patch_size=4), config)  # the object is number 3
    davis = run(PatchPixels(patch_size=4), replace(config, counting="davis"))
    assert (shown["objects"], davis["objects"]) == (1, 3)
    assert davis["J"] == pytest.approx((shown["J"] + 200) / 3)


def test_masks_that_show_every_object_once_score_nothing(tmp_path: Path) -> None:
    data = clips(tmp_path)
    masks = data / "Annotations" / "480p" / "square"
    for number in (1, 2, 4, 5):
        (masks / f"{number:05d}.png").unlink()
    other = np.zeros((SIDE, 96), dtype=np.uint8)
    other[48:60, 4:40] = 1
    Image.fromarray(other).save(masks / "00003.png")  # 0 is no label here: object 3 is still there
    assert run(PatchPixels(patch_size=8), Config(data=str(data), short=SIDE)) == {"videos": 1, "frames": 6}


def test_what_lies_in_a_folder_is_used_for_what_made_it_alone(tmp_path: Path) -> None:
    data, out = clips(tmp_path / "data", frames=3), tmp_path / "out"
    config = Config(data=str(data), short=SIDE)
    network = vit.VisionTransformer(vit.Config(patch_size=8, dim=16, depth=1, heads=2, ffn_hidden=32))
    first = run(network, config, out)
    assert run(network, config, out) == first
    for backbone, changed, said in (
        (network.untrained(seed=1), config, "other weights"),
        (network, replace(config, short=32), "other settings"),
    ):
        with pytest.raises(UserError, match=said):
            run(backbone, changed, out)
    (out / "square" / "masks" / "00001.png").unlink()
    with pytest.raises(UserError, match="other masks; delete it"):
        run(network, config, out)
    for path in [*data.rglob("square/*.*")]:
        path.rename(path.with_stem(f"x{path.stem}"))
    with pytest.raises(UserError, match="other data"):
        run(network, config, out)


@pytest.mark.parametrize("what", ["JPEGImages", "Annotations"])
def test_a_later_frame_or_mask_of_another_size_is_named(what: str, tmp_path: Path) -> None:
    data = clips(tmp_path)
    path = next((data / what / "480p" / "square").glob("00003.*"))
    Image.open(path).resize((48, 32), 0).save(path)
    with pytest.raises(UserError, match="00003.*48 x 32"):
        run(PatchPixels(patch_size=8), Config(data=str(data), short=SIDE))
