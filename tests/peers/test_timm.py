"""Random models of timm, saved by it and read back: our Features are what its own methods give."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from dinokit.checkpoints.load import load
from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.peers.peer import Peer
from dinokit.peers.timm import Timm

timm = pytest.importorskip("timm")
hub = pytest.importorskip("timm.models._hub")

Scramble = Callable[[nn.Module], nn.Module]
Images = Callable[..., Tensor]

VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 16}
SIZED = VIT | {"img_size": 48}
SWIN = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "img_size": 64, "window_size": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov3": ("vit_small_patch16_dinov3", VIT),
    "dinov2": ("vit_small_patch14_reg4_dinov2", SIZED),
    "siglip": ("vit_base_patch16_siglip_224", SIZED),
    "pe core": ("vit_pe_core_tiny_patch16_384", SIZED | {"attn_pool_num_heads": 2}),
    "averaged": ("eva02_tiny_patch14_224", SIZED),
    "convnext": ("convnext_atto", {"dims": (8, 12, 16, 24), "depths": (1, 1, 1, 1)}),
    "resnet": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 16)}),
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
}
PREFIX = {"dinov3": 5, "dinov2": 5, "pe core": 1, "averaged": 1}  # tokens before the patches
BY_TOKEN = ("dinov3", "dinov2")  # whose cls is the class token
MAPS = ("convnext", "resnet", "swin")
ANY_SIZE = {"dynamic_img_size": True}
ABOUT = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 64, 64]}


def saved(folder: Path, name: str, scramble: Scramble) -> Any:
    architecture, arguments = FAMILIES[name]
    model = scramble(timm.create_model(architecture, **arguments, num_classes=0))
    hub.save_for_hf(model, folder, model_args=arguments | {"num_classes": 0}, safe_serialization=True)
    whole = json.loads((folder / "config.json").read_text())
    whole["pretrained_cfg"] |= ABOUT | {"num_classes": 0}
    (folder / "config.json").write_text(json.dumps(whole))
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **({} if name in MAPS else ANY_SIZE)).eval()


def peer(folder: Path) -> Peer:
    found = load(f"timm/local-dir:{folder}")
    assert isinstance(found, Timm)
    return found


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_features_are_those_of_timms_own_methods(name: str, tmp_path: Path, scramble: Scramble, images: Images) -> None:
    model = saved(tmp_path, name, scramble)
    ours = peer(tmp_path)
    side = 32 if name in MAPS else 16
    for size in [(64, 64)] if name == "swin" else [(64, 64), (64, 96)]:
        found = ours(images(*size))
        rows, columns = found.grid
        assert (rows, columns) == (size[0] // side, size[1] // side)
        state = model.forward_features(images(*size))
        pooled = model.forward_head(state, pre_logits=True)
        cls = state[:, 0] if name in BY_TOKEN else pooled
        torch.testing.assert_close(found.cls, cls, atol=1e-5, rtol=1e-5)
        if name in MAPS:
            maps = state.permute(0, 3, 1, 2) if name == "swin" else state
            if name == "convnext":  # its norm comes after pooling
                maps = model.head.norm(maps)
            torch.testing.assert_close(found.maps, maps, atol=1e-5, rtol=1e-5)
            assert found.registers.shape[1] == 0
            continue
        prefix = PREFIX.get(name, 0)
        tokens = model.fc_norm(state)  # an identity but for "averaged"
        torch.testing.assert_close(found.patches, tokens[:, prefix:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.registers, tokens[:, name in BY_TOKEN : prefix], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_inner_layers_are_those_of_timm_and_the_last_is_the_output(
    name: str, tmp_path: Path, scramble: Scramble, images: Images
) -> None:
    model = saved(tmp_path, name, scramble)
    ours, pictures = peer(tmp_path), images(64, 64)
    final = ours(pictures)
    last, first = ours.intermediate(pictures, [ours.depth - 1, 0])
    assert torch.equal(last.cls, final.cls)
    assert torch.equal(last.patches, final.patches)
    states = model.forward_intermediates(pictures, intermediates_only=True)
    raw = ours.intermediate(pictures, [ours.depth - 1, 0], norm=False)
    for found, state in zip(raw, (states[-1], states[0])):
        torch.testing.assert_close(found.maps, state, atol=1e-5, rtol=1e-5)
    assert first.registers.shape == final.registers.shape[:2] + first.cls.shape[1:]
    if name in ("dinov3", "dinov2", "siglip", "pe core"):
        torch.testing.assert_close(first.patches, model.norm(raw[1].patches), atol=1e-5, rtol=1e-5)
    if name == "averaged":
        torch.testing.assert_close(first.patches, model.fc_norm(raw[1].patches), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_our_own_dinov3_agrees(tmp_path: Path, scramble: Scramble, images: Images) -> None:
    """Tolerance as in tests/checkpoints/test_timm.py."""
    saved(tmp_path, "dinov3", scramble)
    theirs, ours = peer(tmp_path)(images(64, 96)), load(tmp_path)(images(64, 96))
    for name in ("cls", "registers", "patches"):
        torch.testing.assert_close(getattr(theirs, name), getattr(ours, name), atol=1e-4, rtol=0)


@torch.no_grad()
def test_pixels_beyond_the_last_patch_are_not_seen(tmp_path: Path, scramble: Scramble, images: Images) -> None:
    saved(tmp_path, "dinov2", scramble)
    ours, pictures = peer(tmp_path), images(75, 66)
    found = ours(pictures)
    assert found.grid == (4, 4)
    assert torch.equal(found.patches, ours(pictures[:, :, :64, :64]).patches)


def test_pixels_are_those_of_the_config(tmp_path: Path, scramble: Scramble) -> None:
    saved(tmp_path, "siglip", scramble)
    assert peer(tmp_path).pixels == Pixels((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 48)


def test_the_untrained_twin_is_drawn_from_its_seed_alone(tmp_path: Path, scramble: Scramble) -> None:
    saved(tmp_path, "dinov3", scramble)
    ours = peer(tmp_path)
    state = torch.random.get_rng_state()
    one, same, other = (ours.untrained(seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    weights = [twin.network.blocks[0].mlp.fc1.weight for twin in (ours, one, same, other)]  # type: ignore[attr-defined]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[1], weights[3])
    assert not torch.equal(weights[1], weights[0])
    assert one.pixels == ours.pixels
    assert not one.training


def test_a_model_of_one_size_says_which(tmp_path: Path, scramble: Scramble, images: Images) -> None:
    saved(tmp_path, "swin", scramble)
    network = timm.create_model("beit_base_patch16_224", **SIZED)
    fixed = Timm(network, name="timm/beit", pixels=Pixels(size=48), build=lambda: network)
    assert fixed(images(48, 48)).grid == (3, 3)
    with pytest.raises(UserError, match=r"timm/beit takes images of 48x48 pixels, got 64x96 \(.*\); resize them"):
        fixed(images(64, 96))


@torch.no_grad()
def test_an_early_stage_alone_can_be_asked_for(images: Images) -> None:
    """Some models of timm stop early by themselves; the state they then end with is no output."""
    network = timm.create_model("hiera_tiny_224", embed_dim=8, num_heads=1, stages=(1, 1, 1, 1)).eval()
    ours = Timm(network, name="timm/hiera", pixels=Pixels(size=224), build=lambda: network)
    assert [found.grid for found in ours.intermediate(images(224, 224), [0, 1])] == [(56, 56), (28, 28)]
    assert ours(images(224, 224)).grid == (7, 7)


def test_models_without_a_grid_of_patches_are_refused(images: Images) -> None:
    network = timm.create_model("levit_128s").eval()
    strange = Timm(network, name="timm/levit", pixels=Pixels(size=224), build=lambda: network)
    with pytest.raises(UserError, match="timm/levit gives 16 patches where a grid of 3x3 has 9"):
        strange(images(224, 224))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_smal_patch16_224", "unknown model of timm 'vit_smal_patch16_224'; did you mean 'vit_small_patch16_224'"),
        ("vit_small_patch14_dinov2.lvd", "did you mean 'vit_small_patch14_dinov2.lvd142m'"),
        ("densenet264d", "timm has no weights for 'densenet264d'"),
        ("local-dir:/nowhere", "timm/local-dir:/nowhere cannot be loaded: .*nowhere"),
    ],
)
def test_names_that_do_not_exist_are_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(f"timm/{name}")
    assert "\n" not in str(caught.value)


def test_a_class_token_among_the_embeddings_is_one(scramble: Scramble, images: Images) -> None:
    """NaFlexViT keeps it there: eight tokens of RADIO's seven teachers and registers are a CLS and seven registers."""
    model = scramble(timm.create_model("naflexvit_base_patch16_radio_v3", embed_dim=32, depth=2, num_heads=2))
    found = Timm(model, name="radio", pixels=Pixels(), build=lambda: model)
    tokens = model.forward_features(images(32, 48))
    features = found(images(32, 48))
    torch.testing.assert_close(features.cls, tokens[:, 0])
    torch.testing.assert_close(features.registers, tokens[:, 1:8])
    inner, last = found.intermediate(images(32, 48), 2)
    torch.testing.assert_close(last.cls, features.cls)
    (_, prefix), _ = model.forward_intermediates(images(32, 48), norm=True, return_prefix_tokens=True)[1]
    torch.testing.assert_close(inner.cls, prefix[:, 0])


def test_radio_crops_the_positions_of_a_square(scramble: Scramble, images: Images) -> None:
    arguments = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    model = scramble(timm.create_model("vit_base_patch16_radio_v3", img_size=80, dynamic_img_size=True, **arguments))
    found = Timm(model, name="radio", pixels=Pixels(), build=lambda: model)
    table = model.pos_embed.detach().clone()
    other = timm.create_model("vit_base_patch16_radio_v3", img_size=(32, 64), **arguments).eval()
    square = functional.interpolate(table.reshape(1, 5, 5, 32).permute(0, 3, 1, 2), size=(4, 4), mode="bilinear")
    cropped = square[:, :, :2].permute(0, 2, 3, 1).reshape(1, 8, 32)
    other.load_state_dict(model.state_dict() | {"pos_embed": cropped})
    torch.testing.assert_close(found(images(32, 64)).patches, other.forward_features(images(32, 64))[:, 8:])
    assert torch.equal(model.pos_embed, table)
    torch.testing.assert_close(found(images(80, 80)).cls, model.forward_features(images(80, 80))[:, 0])


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, scramble: Scramble) -> None:
    model = saved(tmp_path, "dinov3", scramble)
    state = model.state_dict()
    state["norm.bias"][3] = torch.nan
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"NaN or infinite numbers in network\.norm\.bias"):
        peer(tmp_path)
