"""Released linear heads: each rule against a formula on the outputs of the blocks, every wrapper, and other libraries.

A wrong order of blocks, of channels, or a missing norm changes the logits by 0.1 and more; tolerance 1e-4.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import dinokit
from dinokit.checkpoints.store import header
from dinokit.core.messages import UserError
from dinokit.models import convnets, vit
from dinokit.models.architecture import Architecture, build
from dinokit.models.features import Backbone

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")
hub = pytest.importorskip("timm.models._hub")

DIM, CLASSES = 32, 5
DINOV3 = vit.Config(patch_size=16, dim=DIM, depth=5, heads=2, registers=4, ffn_hidden=64, layer_scale=0.5)
LEARNED = replace(DINOV3, position="offset", position_grid=4, qkv_bias="qkv")
DINOV2 = replace(LEARNED, registers=0, norm_eps=1e-6, init="dinov2")
DINO = replace(DINOV2, layer_scale=None, mask_token=False, init="dino")
REGISTERS = replace(LEARNED, position="antialias", init="dinov2")
VITS = {"dino": DINO, "dinov2": DINOV2, "registers": REGISTERS, "dinov3": DINOV3}
CONVNETS: dict[str, Architecture] = {
    "convnext": convnets.ConvNeXtConfig(dims=(4, 6, 8, DIM), depths=(1, 1, 1, 1), layer_scale=0.5),
    "resnet": convnets.ResNetConfig(width=1, depths=(1, 1, 1, 1)),
}
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
Wrap = Callable[[dict[str, Tensor]], dict[str, Any]]


def randomised(network: nn.Module) -> None:
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=draw))


def model(config: Architecture, folder: Path) -> Path:
    backbone = build(config)
    randomised(backbone)
    save_file(backbone.state_dict(), folder / "model.safetensors", header(config, backbone.pixels, step=0))
    return folder / "model.safetensors"


def head(vectors: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(7)
    shape = CLASSES, vectors * DIM
    return {"weight": torch.randn(shape, generator=draw), "bias": torch.randn(CLASSES, generator=draw)}


def saved(content: object, folder: Path) -> Path:
    torch.save(content, folder / "head.pth")
    return folder / "head.pth"


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def outputs(backbone: Backbone) -> tuple[list[Tensor], list[Tensor]]:
    """CLS and mean patch after every block, each normed here."""
    assert isinstance(backbone, vit.VisionTransformer)
    tokens: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, args, out: tokens.append(out)) for block in backbone.blocks]
    backbone(IMAGES)
    for hook in hooks:
        hook.remove()
    normed = [backbone.norm(each) for each in tokens]
    first = 1 + backbone.config.registers
    return [each[:, 0] for each in normed], [each[:, first:].mean(1) for each in normed]


@pytest.mark.parametrize("name", VITS)
def test_logits_are_those_of_the_formula(tmp_path: Path, name: str) -> None:
    backbone = dinokit.load(model(VITS[name], tmp_path))
    cls, mean = outputs(backbone)
    seen = {1: [cls[4]], 2: [cls[4], mean[4]], 4: cls[1:5], 5: [*cls[1:5], mean[4]]}
    for vectors, parts in seen.items():
        columns = torch.cat(parts, dim=1)
        if name == "dino" and vectors == 2:
            columns = torch.tensor([[value for pair in zip(*image) for value in pair] for image in zip(*parts)])
        weights = head(vectors)
        found = dinokit.load_classifier(backbone, saved(weights, tmp_path))(IMAGES)
        assert found.shape == (2, CLASSES)
        close(found, columns @ weights["weight"].T + weights["bias"])


@pytest.mark.parametrize("name", CONVNETS)
def test_a_convolutional_network_gives_its_mean_map(tmp_path: Path, name: str) -> None:
    backbone = dinokit.load(model(CONVNETS[name], tmp_path))
    features = backbone(IMAGES)
    for vectors in (1, 2):
        columns = torch.cat([features.cls, features.patches.mean(1)][:vectors], dim=1)
        weights = head(vectors)
        classifier = dinokit.load_classifier(backbone, saved(weights, tmp_path))
        close(classifier(IMAGES), columns @ weights["weight"].T + weights["bias"])
        assert classifier.backbone is backbone


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": {f"module.linear.{k}": v for k, v in state.items()}, "epoch": 3, "best_acc": 1.0},
        lambda state: {f"linear.{key}": value for key, value in state.items()},
        lambda state: {f"linear_head.{key}": value for key, value in state.items()},
        lambda state: {f"head.{key}": value for key, value in state.items()},
        lambda state: {"model": {f"_orig_mod.classifier.{key}": value for key, value in state.items()}},
        lambda state: {key: value.half() for key, value in state.items()},
    ],
    ids=["flat", "dino", "linear", "linear_head", "head", "nested", "half"],
)
def test_heads_are_found_in_all_their_wrappers(tmp_path: Path, wrap: Wrap) -> None:
    path = model(DINOV2, tmp_path)
    classifier = dinokit.load_classifier(path, saved(wrap(head(2)), tmp_path))
    torch.testing.assert_close(classifier.linear.weight, head(2)["weight"], atol=2e-3, rtol=0)
    assert not classifier.training
    assert not any(value.requires_grad for value in classifier.parameters())
    assert {value.dtype for value in classifier.parameters()} == {torch.float32}


def test_a_head_in_safetensors_and_a_backbone_in_bfloat16(tmp_path: Path) -> None:
    save_file(head(5), tmp_path / "head.safetensors")
    exact = dinokit.load_classifier(model(DINOV3, tmp_path), tmp_path / "head.safetensors")
    low = dinokit.load_classifier(dinokit.load(tmp_path).bfloat16(), tmp_path / "head.safetensors")
    assert low(IMAGES).dtype == torch.bfloat16
    assert torch.cosine_similarity(low(IMAGES).float(), exact(IMAGES)).min() > 0.995


def test_a_released_classifier_in_one_file_with_its_backbone(tmp_path: Path) -> None:
    """The names of DINOv2's classifiers on torch.hub."""
    path, weights = model(replace(DINOV2, heads=1, dim=64), tmp_path), {"weight": torch.ones(3, 128)}
    state = {f"backbone.{key}": value for key, value in dinokit.load(path).state_dict().items()}
    whole = state | {"linear_head.weight": weights["weight"], "linear_head.bias": torch.ones(3)}
    torch.save(whole, tmp_path / "whole.pth")
    found = dinokit.load_classifier(tmp_path / "whole.pth", heads=1)
    separate = dinokit.load_classifier(path, saved(weights | {"bias": torch.ones(3)}, tmp_path))
    close(found(IMAGES), separate(IMAGES))
    assert dinokit.load(tmp_path / "whole.pth", heads=1).dim == 64


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViT", {"intermediate_size": 96, "layer_norm_eps": 1e-6}),
        ("Dinov2", {}),
        ("Dinov2WithRegisters", {"num_register_tokens": 3}),
    ],
)
def test_logits_are_those_of_transformers(
    tmp_path: Path, kind: str, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 64, "patch_size": 16}
    config = getattr(transformers, f"{kind}Config")(**sizes, **settings, num_labels=CLASSES)
    theirs = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    randomised(theirs)
    theirs.save_pretrained(tmp_path)
    images = IMAGES[..., :64]
    with torch.no_grad():
        close(dinokit.load_classifier(tmp_path)(images), theirs(images).logits)
    assert "left out" not in capsys.readouterr().err


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_head_of_timm_is_read_if_it_sees_cls_and_refused_else(tmp_path: Path, pool: str) -> None:
    settings = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64, "global_pool": pool, "num_classes": 5}
    theirs = timm.create_model("vit_small_patch16_dinov3_qkvb", **settings).eval()
    randomised(theirs)
    hub.save_for_hf(theirs, tmp_path, model_args=settings, safe_serialization=True)
    if pool == "token":
        with torch.no_grad():
            close(dinokit.load_classifier(tmp_path)(IMAGES[..., :64]), theirs(IMAGES[..., :64]))
        return
    with pytest.raises(UserError, match="expected global_pool 'token' .*, got 'avg'"):
        dinokit.load_classifier(tmp_path)


def test_the_classifier_in_a_resnet_is_used(tmp_path: Path) -> None:
    path = model(CONVNETS["resnet"], tmp_path)
    backbone = dinokit.load(path)
    torch.save(backbone.state_dict() | {f"fc.{key}": value for key, value in head(1).items()}, tmp_path / "r.pth")
    close(
        dinokit.load_classifier(tmp_path / "r.pth")(IMAGES),
        backbone(IMAGES).cls @ head(1)["weight"].T + head(1)["bias"],
    )


def test_a_width_that_fits_nothing_names_those_that_do(tmp_path: Path) -> None:
    wide = saved({"weight": torch.zeros(5, 96), "bias": torch.zeros(5)}, tmp_path)
    for config, known in (
        (DINOV3, "32, 64, 128, 160"),
        (replace(DINOV3, depth=3), "32, 64"),
        (CONVNETS["resnet"], "32, 64"),
    ):
        with pytest.raises(UserError, match=f"expected a head of width {known} for a backbone of width 32, got 96"):
            dinokit.load_classifier(model(config, tmp_path), wide)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.zeros(5, 32)}, r"bias \[class\] in .*, got \(5, 32\) and none"),
        ({"weight": torch.zeros(5, 32), "bias": torch.zeros(4)}, r"got \(5, 32\) and \(4,\)"),
        ({"weight": torch.zeros(5), "bias": torch.zeros(5)}, r"got \(5,\) and \(5,\)"),
        ({"linear.weight": torch.zeros(5, 32), "head.weight": torch.zeros(5, 32)}, "got linear.weight, head.weight"),
        ({"mlp.0.weight": torch.zeros(5, 32)}, "got only mlp.0.weight; give the file of one"),
    ],
)
def test_what_is_no_linear_head_is_named(tmp_path: Path, content: dict[str, Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dinokit.load_classifier(model(DINOV3, tmp_path), saved(content, tmp_path))


def test_a_model_without_a_head_says_so(tmp_path: Path) -> None:
    path = model(DINOV3, tmp_path)
    with pytest.raises(UserError, match="expected one linear head in .*, got only blocks"):
        dinokit.load_classifier(path)
    with pytest.raises(UserError, match="a loaded backbone has no head; give the file of one"):
        dinokit.load_classifier(dinokit.load(path))


@pytest.mark.parametrize("name", ["head.fc.", "classifier.1."])
def test_heads_of_convolutional_networks_are_found_under_their_names(tmp_path: Path, name: str) -> None:
    """timm's ConvNeXts and transformers' ResNets."""
    weight, bias = torch.randn(5, 16), torch.randn(5)
    torch.save({f"{name}weight": weight, f"{name}bias": bias}, tmp_path / "head.pth")
    network = vit.VisionTransformer(vit.Config(patch_size=4, dim=16, depth=1, heads=2, ffn_hidden=8))
    found = dinokit.load_classifier(network, tmp_path / "head.pth")
    assert torch.equal(found.linear.weight, weight)
