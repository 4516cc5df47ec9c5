"""What an adaptation begins with: the settings fit the network, and it is the network that learns."""

from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import RunFolder, header
from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.models import vit
from dinokit.models.architecture import build
from dinokit.models.convnets import ResNetConfig
from dinokit.recipes.adapted import adapted
from dinokit.run import engine
from dinokit.training.config import TrainConfig, with_settings
from tests.run.test_engine import config

SMALL = {"patch_size": 4, "dim": 16, "depth": 3, "heads": 2, "registers": 0, "ffn_hidden": 32, "mask_token": False}
FEW = {"data.batch_size": 4, "objectives.koleo.group": 4, "workers": 0, "tensorboard": False, "device": "cpu"}


def saved(path: Path, **changes: object) -> Path:
    """A small network with its positions in a table of 7 x 7, that was trained without a mask token."""
    network = build(vit.Config(**SMALL | {"position": "antialias", "position_grid": 7} | changes))  # type: ignore[arg-type]
    save_file(network.state_dict(), path, header(network.config, Pixels((0.5,) * 3, (0.25,) * 3, 16), step=0))
    return path


def trained(settings: TrainConfig, data: Path, out: Path) -> RunFolder:
    """Two steps of fitting heads and two of adapting, every one of which is saved."""
    short = {"steps": 2, "stages.adapt.steps": 2, "checkpoint_every": 1, "data.source": str(data), **FEW}
    engine.pretrain(with_settings(settings, short), out)
    return RunFolder(out)


def test_positions_of_another_grid_are_resized_and_learn(photos: Path, tmp_path: Path) -> None:
    file = saved(tmp_path / "weights.safetensors")
    settings = adapted(str(file))
    crops = settings.experiment.data.views
    assert (crops.global_size, crops.local_size) == (12, 8)  # of images of 16 px, as 48 and 24 are of 64
    run = trained(settings, photos, tmp_path / "run")
    before, fitted, after = (load_file(run.checkpoint(step) / "model.safetensors") for step in (0, 2, 4))
    assert all(torch.equal(before[name], value) for name, value in load_file(file).items())
    assert all(torch.equal(before[name], value) for name, value in fitted.items())
    assert after["pos_embed"].shape == before["pos_embed"].shape == (1, 50, 16)
    assert not torch.equal(after["pos_embed"], before["pos_embed"])
    assert "mask_token" in after  # which the file has not: hidden patches need one
    assert load(run.path).pixels.size == 16


def test_a_network_of_three_channels_learns_from_images_of_five(tmp_path: Path) -> None:
    file, photos = saved(tmp_path / "weights.safetensors"), tmp_path / "photos"
    photos.mkdir()
    draw = numpy.random.default_rng(0)
    for index in range(6):
        numpy.save(photos / f"{index}.npy", draw.integers(0, 256, (20, 24, 5), dtype=numpy.uint8))
    run = trained(adapted(str(file), channels=5), photos, tmp_path / "run")
    wanted = load(file, channels=5)
    begun = load(run.checkpoint(0))
    assert begun.channels == 5
    images = torch.randn(2, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(begun(images).cls, wanted(images).cls)
    assert begun.pixels.mean == wanted.pixels.mean
    kernels = [load_file(run.checkpoint(step) / "model.safetensors")["patch_embed.proj.weight"] for step in (0, 4)]
    assert not torch.equal(*kernels)


@pytest.mark.slow
def test_heads_of_a_run_go_on_and_a_file_gets_new_ones(photos: Path, tmp_path: Path) -> None:
    engine.pretrain(config(photos, steps=2), tmp_path / "first")
    last = tmp_path / "first" / "checkpoints" / "2"
    for source, same in ((last, True), (last / "model.safetensors", False)):
        settings = adapted(str(source))
        assert (settings.experiment.objectives["dino"].head.prototypes == 12) is same
        run = tmp_path / f"run{same}"
        if same:
            trained(settings, photos, run)
            state = load_file(run / "checkpoints" / "4" / "state.safetensors")
            begun = load_file(last / "state.safetensors")["objectives.dino.head.teacher.mlp.0.weight"]
            change = (state["objectives.dino.head.teacher.mlp.0.weight"] - begun).abs().max()
            assert 0 < change < 0.02  # of four steps; another head is farther


@pytest.mark.parametrize(
    ("method", "word", "decay"), [("full", "all", None), ("lora", "lora:8", 1.0), ("last", "last:1", 1.0)]
)
@pytest.mark.parametrize("masks", [True, False])
def test_a_method_is_what_learns_after_the_heads(
    tmp_path: Path, method: str, word: str, decay: float | None, masks: bool
) -> None:
    file = saved(tmp_path / "weights.safetensors", mask_token=masks)
    fitted, learns = adapted(str(file), method=method).experiment.all_stages
    word += "" if masks or method == "full" else "+mask"  # one that is not loaded has to learn
    assert fitted.name == fitted.experiment.optim.trained == "heads"
    assert learns.experiment.optim.trained == word
    assert decay is None or learns.experiment.optim.layer_decay == decay
    assert learns.experiment.anchor is not None
    assert learns.experiment.anchor.source == "start"


def test_a_network_from_which_nothing_can_be_hidden_does_without_masks(tmp_path: Path) -> None:
    network = build(ResNetConfig(width=2, depths=(1, 1, 1, 1)))
    file = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), file, header(network.config, Pixels(size=64), step=0))
    settings = adapted(str(file)).experiment
    assert settings.data.masks is None
    assert set(settings.all_stages[1].experiment.objectives) == {"dino", "koleo", "gram"}


def test_the_recipe_follows_the_width(tmp_path: Path) -> None:
    wide = saved(tmp_path / "wide.safetensors", dim=192, heads=3)
    assert adapted(str(wide)).experiment.recipe == "adapt"
    assert adapted(str(wide), recipe="adapt-small").experiment.recipe == "adapt-small"
    assert adapted(str(saved(tmp_path / "narrow.safetensors"))).experiment.recipe == "adapt-small"


def test_what_cannot_be_adapted_so_is_said(tmp_path: Path) -> None:
    file = str(saved(tmp_path / "weights.safetensors"))
    with pytest.raises(UserError, match="no stage adapt"):
        adapted(file, recipe="demo")
    with pytest.raises(UserError, match="method"):
        adapted(file, method="most")


def test_weights_of_a_run_are_brought_to_other_channels(photos: Path, tmp_path: Path) -> None:
    engine.pretrain(config(photos, steps=1), tmp_path / "first")
    source = tmp_path / "first" / "checkpoints" / "1"
    five = tmp_path / "five"
    five.mkdir()
    draw = numpy.random.default_rng(0)
    for index in range(6):
        numpy.save(five / f"{index}.npy", draw.integers(0, 256, (20, 24, 5), dtype=numpy.uint8))
    short = {"steps": 1, "stages.adapt.steps": 1, "data.source": str(five), **FEW}
    engine.pretrain(with_settings(adapted(str(source), channels=5), short), tmp_path / "run")
    begun, wanted = load(RunFolder(tmp_path / "run").checkpoint(0)), load(source, channels=5)
    assert begun.channels == 5
    images = torch.randn(2, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(begun(images).cls, wanted(images).cls)
