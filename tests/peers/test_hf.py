"""Random models of transformers, saved by it and read back: our Features are what it documents as its output."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dinokit.checkpoints.load import load
from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.peers.hf import Transformers
from dinokit.peers.peer import Peer

transformers = pytest.importorskip("transformers")

Scramble = Callable[[nn.Module], nn.Module]
Images = Callable[..., Tensor]

VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
SIZED = VIT | {"image_size": 48, "patch_size": 16}
CONVNEXT = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 2, 1]}
FAMILIES: dict[str, dict[str, Any]] = {
    "Dinov2": SIZED,
    "Dinov2WithRegisters": SIZED | {"num_register_tokens": 3},
    "DINOv3ViT": SIZED | {"num_register_tokens": 2},
    "DINOv3ConvNext": CONVNEXT,
    "ViT": SIZED,
    "ViTMAE": SIZED,
    "ViTMSN": SIZED,
    "IJepa": SIZED,
    "CLIPVision": SIZED,
    "SiglipVision": SIZED,
    "Siglip2Vision": VIT | {"patch_size": 16, "num_patches": 9},
}
REGISTERS = {"Dinov2WithRegisters": 3, "DINOv3ViT": 2}
SIZES = [(48, 48), (64, 96)]


def saved(folder: Path, kind: str, scramble: Scramble, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**FAMILIES[kind] | changes)
    model = scramble(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(folder)
    return model


def peer(folder: Path) -> Peer:
    found = load(f"hf/{folder}")
    assert isinstance(found, Transformers)
    return found


def documented(kind: str, model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return (cls, [registers, patches]) as the documentation of transformers says they are had."""
    grid = (images.shape[2] // 16, images.shape[3] // 16)
    if kind == "Siglip2Vision":  # patches as its image processor cuts them, image by image
        values = torch.stack([
            torch.stack([image[:, y : y + 16, x : x + 16].permute(1, 2, 0).flatten()
                         for y in range(0, image.shape[1], 16) for x in range(0, image.shape[2], 16)])
            for image in images
        ])  # fmt: skip
        out = model(values, torch.ones(values.shape[:2], dtype=torch.int64), torch.tensor([grid] * len(images)))
        return out.pooler_output, out.last_hidden_state
    if kind == "SiglipVision":
        out = model(images, interpolate_pos_encoding=True)
        return out.pooler_output, out.last_hidden_state
    if kind == "CLIPVision":
        out = model(images, interpolate_pos_encoding=True)
        return out.pooler_output, model.post_layernorm(out.last_hidden_state)[:, 1:]
    if kind == "ViTMAE":  # without hiding: every patch, put back into order
        model.config.mask_ratio = 0.0
        out = model(images, interpolate_pos_encoding=True)
        tokens = out.last_hidden_state
        order = out.ids_restore[..., None].expand(-1, -1, tokens.shape[2])
        return tokens[:, 0], tokens[:, 1:].gather(1, order)
    if kind == "IJepa":
        tokens = model(images, interpolate_pos_encoding=True).last_hidden_state
        return tokens.mean(dim=1), tokens
    takes = {} if kind.startswith("D") else {"interpolate_pos_encoding": True}
    tokens = model(images, **takes).last_hidden_state
    return tokens[:, 0], tokens[:, 1:]


@pytest.mark.parametrize("kind", FAMILIES)
@torch.no_grad()
def test_features_are_those_that_transformers_documents(
    kind: str, tmp_path: Path, scramble: Scramble, images: Images
) -> None:
    model = saved(tmp_path, kind, scramble)
    ours = peer(tmp_path)
    for size in SIZES:
        found = ours(images(*size))
        cls, rest = documented(kind, model, images(*size))
        side = 32 if "ConvNext" in kind else 16
        assert found.grid == (size[0] // side, size[1] // side)
        assert found.registers.shape[1] == REGISTERS.get(kind, 0)
        # order of sums alone: the same network computes both
        torch.testing.assert_close(found.cls, cls, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.cat([found.registers, found.patches], dim=1), rest, atol=1e-5, rtol=1e-5)
        assert found.cls.shape == (2, ours.dim)


@pytest.mark.parametrize("kind", FAMILIES)
@torch.no_grad()
def test_inner_layers_are_those_of_a_shorter_model(
    kind: str, tmp_path: Path, scramble: Scramble, images: Images
) -> None:
    """The first blocks of a model are a model: its raw output is the raw state between the blocks."""
    model = saved(tmp_path, kind, scramble)
    ours = peer(tmp_path)
    final = ours(images(*SIZES[1]))
    last, first = ours.intermediate(images(*SIZES[1]), [ours.depth - 1, 0])
    assert torch.equal(last.cls, final.cls)
    assert torch.equal(last.patches, final.patches)
    raw = ours.intermediate(images(*SIZES[1]), [ours.depth - 1], norm=False)[0]
    final_norm = getattr(ours.network, ours.kind.norm)  # type: ignore[attr-defined]
    torch.testing.assert_close(final_norm(raw.patches), final.patches, atol=1e-5, rtol=1e-5)
    if "ConvNext" in kind:
        assert first.grid == (16, 24)
        return
    short = saved(tmp_path / "short", kind, scramble, num_hidden_layers=1)
    short.load_state_dict({key: model.state_dict()[key] for key in short.state_dict()})
    short.save_pretrained(tmp_path / "short")
    torch.testing.assert_close(first.patches, peer(tmp_path / "short")(images(*SIZES[1])).patches)


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters", "DINOv3ViT"])
@torch.no_grad()
def test_our_own_network_agrees(kind: str, tmp_path: Path, scramble: Scramble, images: Images) -> None:
    """Tolerance as in tests/checkpoints/test_huggingface.py."""
    saved(tmp_path, kind, scramble)
    theirs, ours = peer(tmp_path)(images(48, 48)), load(tmp_path)(images(48, 48))
    for name in ("cls", "registers", "patches"):
        torch.testing.assert_close(getattr(theirs, name), getattr(ours, name), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters", "DINOv3ViT", "DINOv3ConvNext", "ViT"])
def test_images_are_the_same_for_our_own_network_if_nothing_describes_them(
    kind: str, tmp_path: Path, scramble: Scramble
) -> None:
    saved(tmp_path, kind, scramble)
    assert peer(tmp_path).pixels == load(tmp_path).pixels


@torch.no_grad()
def test_mae_sees_the_whole_image_every_time(tmp_path: Path, scramble: Scramble, images: Images) -> None:
    saved(tmp_path, "ViTMAE", scramble)
    ours, pictures = peer(tmp_path), images(48, 48)
    before = ours(pictures)
    assert torch.equal(before.patches, ours(pictures).patches)
    assert before.patches.shape[1] == 9
    again = ours.untrained(seed=0)
    assert torch.equal(again(pictures).patches, again(pictures).patches)
    # a block of attention mixes all, but before the first one a patch knows itself alone
    changed = pictures.clone()
    changed[:, :, 32:, :16] += 1  # row 2, column 0
    shift = (ours(changed).patches - before.patches).norm(dim=-1).mean(dim=0)
    assert shift.argmax() == 6


@torch.no_grad()
def test_of_two_towers_the_one_of_images_is_taken(tmp_path: Path, scramble: Scramble, images: Images) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text |= {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    config = transformers.CLIPConfig(vision_config=SIZED, text_config=text, projection_dim=8)
    model = scramble(transformers.CLIPModel(config))
    model.save_pretrained(tmp_path)
    expected = model.vision_model(images(48, 48)).pooler_output
    torch.testing.assert_close(peer(tmp_path)(images(48, 48)).cls, expected)


def test_pixels_are_those_of_the_preprocessor_or_of_the_kind(tmp_path: Path, scramble: Scramble) -> None:
    saved(tmp_path, "SiglipVision", scramble)
    assert peer(tmp_path).pixels == Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 48)
    about = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"shortest_edge": 70}}
    about |= {"do_center_crop": True, "crop_size": {"height": 64, "width": 64}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    assert peer(tmp_path).pixels == Pixels((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 64)


def test_a_config_that_does_not_fit_names_a_weight(tmp_path: Path, scramble: Scramble) -> None:
    saved(tmp_path, "Dinov2", scramble)
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(about | {"patch_size": 4}))
    with pytest.raises(UserError, match=r"weights are missing or misshapen, such as .*embeddings"):
        peer(tmp_path)


def test_missing_weights_are_no_random_ones(tmp_path: Path, scramble: Scramble) -> None:
    saved(tmp_path, "Dinov2", scramble)
    state = load_file(tmp_path / "model.safetensors")
    state.pop("layernorm.weight")
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"is incomplete: 1 weights are missing or misshapen, such as layernorm\.weight"
    ):
        peer(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "is of kind 'gpt2'; known are: clip, "),
        ({"model_type": "evil", "auto_map": {"AutoModel": "x.Y"}}, "the code it brings along is never run"),
    ],
)
def test_unknown_kinds_are_refused(tmp_path: Path, scramble: Scramble, change: dict[str, Any], message: str) -> None:
    saved(tmp_path, "Dinov2", scramble)
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(about | change))
    with pytest.raises(UserError, match=message):
        peer(tmp_path)


def test_a_pickle_is_not_read(tmp_path: Path, scramble: Scramble) -> None:
    model = saved(tmp_path, "Dinov2", scramble)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        peer(tmp_path)
