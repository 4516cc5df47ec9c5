"""Convolutional backbones of transformers and timm: random models saved by their libraries, loaded here and compared;
and every layout into every other.

Tolerance 1e-4; measured 0: the libraries do the same operations in the same order.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dinokit.checkpoints.convert import convert
from dinokit.checkpoints.layouts import huggingface, names, recognise, timm
from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import header
from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.models import convnets
from dinokit.models.architecture import CONVNETS, Network, build

transformers = pytest.importorskip("transformers")
peer = pytest.importorskip("timm")
hub = pytest.importorskip("timm.models._hub")

SIZES = [(64, 64), (96, 64), (75, 100)]  # square, taller, no multiple of 32
TOLERANCE = 1e-4
CONVNEXT = convnets.ConvNeXtConfig(dims=(4, 6, 8, 10), depths=(1, 2, 1, 1), layer_scale=0.25)
RESNET = convnets.ResNetConfig(depths=(1, 2, 1, 1))  # 64 wide, as all of timm: 9M numbers, so it is converted seldom
NARROW = convnets.ResNetConfig(width=4, depths=(1, 2, 1, 1))
TARGETS = {"official": "x.pth", "hf": "hf", "timm": "timm", "dinokit": "x.safetensors"}
HF: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext": ("DINOv3ConvNext", {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 2, 1, 1]}),
    "resnet": ("ResNet", {"embedding_size": 4, "hidden_sizes": [16, 32, 64, 128], "depths": [1, 2, 1, 1]}),
}
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext": ("convnext_tiny.dinov3_lvd1689m", {"dims": [4, 6, 8, 10], "depths": [1, 2, 1, 1]}),
    "resnet": ("resnet50", {"layers": [1, 2, 1, 1]}),
}
# to the next layout and to the one before; in CI every pair
CHAINS = [
    *[
        pytest.param("convnext", to, other, marks=[] if (row - column) % 2 else pytest.mark.slow)
        for row, to in enumerate(TARGETS)
        for column, other in enumerate(TARGETS)
    ],
    *[("resnet", "official", "hf"), ("resnet", "hf", "dinokit"), ("resnet", "dinokit", "official")],
    *[("resnet", "official", "timm"), ("resnet", "timm", "official")],
]
KINDS = pytest.mark.parametrize("kind", ["convnext", "resnet"])


def randomised(model: nn.Module) -> nn.Module:
    """Every tensor random: a zero bias, a gamma of 1e-6 or a fresh batch norm would hide a mistake."""
    draw = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            centre = name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight"))
            spread = value[0].numel() ** -0.5 if value.ndim > 1 else 0.1  # keeps activations near 1
            value.copy_(spread * torch.randn(value.shape, generator=draw) + centre)
        else:
            value.fill_(7)  # batches seen
    return model.eval()


def of_hf(kind: str, folder: Path) -> nn.Module:
    name, settings = HF[kind]
    model = randomised(getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**settings)))
    model.save_pretrained(folder)
    return model


def of_timm(kind: str, folder: Path, **settings: Any) -> nn.Module:
    name, sizes = TIMM[kind]
    model = randomised(peer.create_model(name, **{"num_classes": 0} | sizes | settings))
    hub.save_for_hf(model, folder, model_args=sizes, safe_serialization=True)
    return model


def saved(folder: Path, config: convnets.ConvNeXtConfig | convnets.ResNetConfig) -> Path:
    """A model of ours, random, with pixels that no default has."""
    model = randomised(build(config))
    path = folder / "model.safetensors"
    save_file(model.state_dict(), path, header(config, Pixels((0.4, 0.4, 0.3), (0.2, 0.1, 0.1), 96), step=0))
    return path


def images(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def differ(left: Tensor, right: Tensor) -> float:
    assert left.shape == right.shape
    return float((left - right).abs().max())


def network(path: Path) -> Network:
    found = load(path)
    assert isinstance(found, Network)
    return found


def same(left: Path, right: Path) -> bool:
    before, after = network(left).state_dict(), network(right).state_dict()
    return before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def rewrite(folder: Path, **settings: object) -> None:
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | settings))


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_convnext_of_transformers_computes_the_same(tmp_path: Path, size: tuple[int, int]) -> None:
    theirs, ours = of_hf("convnext", tmp_path), network(tmp_path)
    out, found = theirs(images(size), output_hidden_states=True), ours(images(size))
    assert differ(out.pooler_output, found.cls) < TOLERANCE
    assert differ(out.last_hidden_state[:, 1:], found.patches) < TOLERANCE
    for maps, features in zip(out.hidden_states[-4:], ours.intermediate(images(size), 4, norm=False), strict=True):
        assert differ(maps, features.maps) < TOLERANCE


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_resnet_of_transformers_computes_the_same(tmp_path: Path, size: tuple[int, int]) -> None:
    theirs, ours = of_hf("resnet", tmp_path), network(tmp_path)
    out, found = theirs(images(size), output_hidden_states=True), ours(images(size))
    assert differ(out.pooler_output.flatten(1), found.cls) < TOLERANCE
    assert differ(out.last_hidden_state, found.maps) < TOLERANCE
    for maps, features in zip(out.hidden_states[-4:], ours.intermediate(images(size), 4), strict=True):
        assert differ(maps, features.maps) < TOLERANCE


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_convnext_of_timm_norms_the_mean_but_not_the_cells(tmp_path: Path, size: tuple[int, int]) -> None:
    """Its CLS is ours; its cells are ours before the last norm. Measured difference of the normed ones: 0.8 to 1.1."""
    theirs, ours = of_timm("convnext", tmp_path), network(tmp_path)
    found, stages = ours(images(size)), ours.intermediate(images(size), 4, norm=False)
    last, maps = theirs.forward_intermediates(images(size))
    assert differ(theirs(images(size)), found.cls) < TOLERANCE
    assert differ(theirs.forward_features(images(size)), last) == 0
    for theirs_of_stage, features in zip(maps, stages, strict=True):
        assert differ(theirs_of_stage, features.maps) < TOLERANCE
    assert differ(last, found.maps) > 0.1
    assert differ(theirs.head.norm(last), found.maps) < TOLERANCE


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_resnet_of_timm_computes_the_same(tmp_path: Path, size: tuple[int, int]) -> None:
    theirs, ours = of_timm("resnet", tmp_path), network(tmp_path)
    found = ours(images(size))
    assert differ(theirs(images(size)), found.cls) < TOLERANCE
    assert differ(theirs.forward_features(images(size)), found.maps) < TOLERANCE
    stages = theirs.forward_intermediates(images(size), intermediates_only=True)[-4:]
    for maps, features in zip(stages, ours.intermediate(images(size), 4), strict=True):
        assert differ(maps, features.maps) < TOLERANCE


@KINDS
def test_classifiers_are_left_out_and_named(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = of_timm(kind, tmp_path, num_classes=5)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "timm.pth")
    name = "head.fc" if kind == "convnext" else "fc"
    for file in ("timm.pth", "model.safetensors"):
        with torch.no_grad():
            pooled = theirs.forward_head(theirs.forward_features(images(SIZES[2])), pre_logits=True)
            assert differ(pooled, load(tmp_path / file)(images(SIZES[2])).cls) < TOLERANCE
        assert f"left out of {tmp_path / file}: {name}.bias, {name}.weight" in capsys.readouterr().err


def test_task_models_of_transformers_and_names_in_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = transformers.ResNetConfig(**HF["resnet"][1], num_labels=3)
    model = randomised(transformers.ResNetForImageClassification(config))
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        pooled = model.resnet(images(SIZES[0])).pooler_output.flatten(1)
        assert differ(pooled, load(tmp_path)(images(SIZES[0])).cls) < TOLERANCE
    assert "classifier.1.bias, classifier.1.weight" in capsys.readouterr().err
    (tmp_path / "config.json").unlink()
    theirs = of_hf("convnext", tmp_path / "convnext")
    torch.save(theirs.state_dict(), tmp_path / "memory.pth")  # model.stages.0 instead of stages.0
    with torch.no_grad():
        found = load(tmp_path / "memory.pth")(images(SIZES[0]))
        assert differ(theirs(images(SIZES[0])).pooler_output, found.cls) < TOLERANCE


def test_pixels_and_initial_values_are_those_of_the_files_beside(tmp_path: Path) -> None:
    of_hf("convnext", tmp_path)
    assert load(tmp_path).pixels == Pixels(size=256)
    about = {"image_mean": [0.43, 0.411, 0.296], "image_std": [0.213, 0.156, 0.143], "size": {"height": 64}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    rewrite(tmp_path, layer_scale_init_value=0.5)
    found = network(tmp_path)
    assert found.pixels == Pixels((0.43, 0.411, 0.296), (0.213, 0.156, 0.143), 64)
    assert isinstance(found.config, convnets.ConvNeXtConfig)
    assert found.config.layer_scale == 0.5
    of_timm("convnext", tmp_path / "timm")
    assert load(tmp_path / "timm").pixels == Pixels(size=224)  # what timm's description of the release says


@pytest.mark.parametrize(
    ("make", "kind", "settings", "message"),
    [
        (of_hf, "convnext", {"hidden_sizes": [4, 6, 8, 12]}, "hidden_sizes [4, 6, 8, 12] is not supported"),
        (of_hf, "convnext", {"depths": [3, 3, 9, 3]}, "depths [3, 3, 9, 3] is not supported"),
        (of_hf, "convnext", {"num_channels": 4}, "have 3"),
        (of_hf, "convnext", {"layer_norm_eps": 1e-5}, "layer_norm_eps 1e-05 is not supported"),
        (of_hf, "convnext", {"hidden_act": "relu"}, "hidden_act 'relu' is not supported"),
        (of_hf, "convnext", {"layer_scale_init_value": -1}, "must be a positive number"),
        (
            of_hf,
            "convnext",
            {"model_type": "convnext"},
            "says model_type 'convnext', the weights are those of dinov3_convnext",
        ),
        (of_hf, "resnet", {"downsample_in_bottleneck": True}, "downsample_in_bottleneck True is not supported"),
        (of_hf, "resnet", {"embedding_size": 64}, "embedding_size 64 is not supported"),
        (of_timm, "convnext", {"architecture": "convnext_xxlarge"}, "did you mean 'convnext_xlarge'"),
        (of_timm, "convnext", {"model_args": {"dims": [4, 6, 8, 12]}}, "dims [4, 6, 8, 12] is not supported"),
        (of_timm, "convnext", {"model_args": {"norm_eps": 1e-5}}, "unknown argument in model_args"),
        (of_timm, "resnet", {"architecture": "resnetblur50"}, "unknown architecture in config.json"),
        (of_timm, "resnet", {"model_args": {"aa_layer": "avg"}}, "unknown argument in model_args"),
        (of_timm, "resnet", {"model_args": []}, "model_args must be a table"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_refused(
    tmp_path: Path, make: Callable[..., nn.Module], kind: str, settings: dict[str, Any], message: str
) -> None:
    make(kind, tmp_path)
    rewrite(tmp_path, **settings)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "kind", "key", "norm"),
    [
        (of_hf, "convnext", "stages.2.downsample_layers.1.weight", "layer_norm.weight"),
        (of_hf, "convnext", "stages.1.layers.1.pointwise_conv1.bias", "stages.3.layers.0.layer_norm.bias"),
        (of_hf, "resnet", "encoder.stages.1.layers.1.layer.1.normalization.running_var",
         "encoder.stages.0.layers.0.shortcut.normalization.bias"),
        (of_timm, "convnext", "stem.0.weight", "head.norm.weight"),
        (of_timm, "convnext", "stages.1.downsample.1.weight", "stem.1.bias"),
        (of_timm, "resnet", "conv1.weight", "layer1.0.downsample.1.bias"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_are_listed_under_their_names(
    tmp_path: Path, make: Callable[..., nn.Module], kind: str, key: str, norm: str
) -> None:
    make(kind, tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    state["surprise"] = state.pop(key)
    width = len(state[norm])
    state[norm] = torch.zeros(3)
    save_file(state, file)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    near = "dinov3_convnext_" if kind == "convnext" else "dino_resnet50"
    wrong = f"1 of another shape: {norm} (3,) instead of ({width},)"
    expected = f"keys 1 missing: {key}; 1 unexpected: surprise; {wrong}; the nearest architecture is {near}"
    assert expected in str(caught.value)


@pytest.mark.parametrize("make", [of_hf, of_timm])
def test_odd_tensors_are_refused_in_our_words(tmp_path: Path, make: Callable[..., nn.Module]) -> None:
    make("convnext", tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    for key in [key for key in state if key.endswith("weight") and ".2." not in key and ".3." not in key]:
        save_file(state | {key: torch.tensor(1.0)}, file)
        with pytest.raises(UserError):
            load(tmp_path)
    where = "stages.1.layers" if make is of_hf else "stages.1.blocks"
    save_file(state | {f"{where}.70.gamma": torch.ones(6)}, file)
    with pytest.raises(UserError, match="expected blocks 0 to 2 in stage 1, got number 70"):
        load(tmp_path)


@pytest.mark.parametrize(("kind", "to", "other"), CHAINS)
def test_every_layout_into_every_other_is_bit_exact(tmp_path: Path, kind: str, to: str, other: str) -> None:
    config = CONVNEXT if kind == "convnext" else RESNET if "timm" in (to, other) else NARROW
    source = saved(tmp_path, config)
    there, on = tmp_path / TARGETS[to], tmp_path / "on" / TARGETS[other]
    assert convert(source, there, to=to) == []
    assert convert(there, on, to=other) == []
    assert same(source, on)
    if "official" not in (to, other):  # which says nothing of pixels
        assert load(on).pixels == load(source).pixels
    if to == other == "official":
        first, second = torch.load(there, weights_only=True), torch.load(on, weights_only=True)
        assert first.keys() == second.keys()
        assert {key for key in first if key.startswith("norms")} == (
            {"norms.3.weight", "norms.3.bias"} if config is CONVNEXT else set()
        )


@pytest.mark.parametrize("name", CONVNETS)
@pytest.mark.parametrize("export", [recognise.official, huggingface.export, timm.export])
def test_every_release_has_a_place_in_every_layout(name: str, export: Callable[..., names.Exported]) -> None:
    """At full size, without memory: what is written for each is recognised as the same architecture."""
    with torch.device("meta"):
        written = export(build(CONVNETS[name]))
    about = written.files.get("config.json", {})
    if export is recognise.official:
        weights = {key: value for key, value in written.weights.items() if not key.startswith("norms")}
        assert recognise.recognise(weights, {}, file="x").architecture == CONVNETS[name]
    else:
        module = huggingface if export is huggingface.export else timm
        assert module.recognise(written.weights, about, file="x")[0] == CONVNETS[name]


@KINDS
@torch.no_grad()
def test_the_libraries_open_what_we_write(tmp_path: Path, kind: str) -> None:
    """transformers and timm their own layout; timm also our official file, by its own table of official names."""
    source = saved(tmp_path, CONVNEXT if kind == "convnext" else RESNET)
    for to, name in TARGETS.items():
        convert(source, tmp_path / name, to=to)
    cls = load(source)(images(SIZES[2])).cls
    model, loading = transformers.AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(loading[fault] for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert differ(model.eval()(images(SIZES[2])).pooler_output.flatten(1), cls) < TOLERANCE
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    assert (list(processor.image_mean), processor.size["height"]) == ([0.4, 0.4, 0.3], 96)
    name, settings = TIMM[kind]
    settings = settings | {"num_classes": 0}
    weights = tmp_path / "timm" / "model.safetensors"
    overlay = {"file": str(tmp_path / "x.pth"), "hf_hub_id": None, "num_classes": 0}
    for opened in (
        peer.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True),
        peer.create_model(name, checkpoint_path=str(weights), **settings),
        peer.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **settings),
    ):
        assert differ(opened.eval()(images(SIZES[2])), cls) < TOLERANCE


def test_what_a_layout_cannot_express_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path, NARROW)
    with pytest.raises(UserError, match="timm cannot express this model: its ResNets begin with 64 channels, this one"):
        convert(source, tmp_path / "timm", to="timm")
    assert not (tmp_path / "timm").exists()
    convert(source, tmp_path / "hf", to="hf")
    assert same(source, tmp_path / "hf")


def test_a_wrong_rename_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second norm that is no copy, and a line that is lost."""
    source = saved(tmp_path, CONVNEXT)
    monkeypatch.setattr(recognise, "COPIES", {"norms.3.weight": "norm.bias"})
    convert(source, tmp_path / "x.pth", to="official")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"1 unexpected: norms\.3\.weight"):
        load(tmp_path / "x.pth")
    table = {ours: theirs for ours, theirs in timm.CONVNEXT.items() if ours != "stages.#.#.gamma"}
    monkeypatch.setattr(timm, "CONVNEXT", table)
    with pytest.raises(UserError, match=r"timm cannot express this model: it would lose stages\.0\.0\.gamma"):
        convert(source, tmp_path / "timm", to="timm")


def test_initial_values_are_no_reason_to_refuse(tmp_path: Path) -> None:
    source = saved(tmp_path, replace(CONVNEXT, layer_scale=0.5))
    for to in ("hf", "timm"):
        convert(source, tmp_path / to, to=to)
    kept = [network(tmp_path / to).config for to in ("hf", "timm")]
    assert kept == [replace(CONVNEXT, layer_scale=0.5), replace(CONVNEXT, layer_scale=1e-6)]
