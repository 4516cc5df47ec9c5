"""Parameter groups equal the official ones, and rates, freezing and clipping do what the recipes mean."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dinokit.core.messages import UserError
from dinokit.core.numbers import constant, cosine
from dinokit.models.convnets import ConvNeXt, ConvNeXtConfig, ResNet, ResNetConfig
from dinokit.models.head import Config as HeadConfig
from dinokit.models.head import Head
from dinokit.models.vit import Config as VitConfig
from dinokit.models.vit import VisionTransformer
from dinokit.training import optim

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "param_groups.json").read_text())


@pytest.mark.parametrize(
    ("case", "blocks", "layer_decay", "ffn"),
    [
        ("vit_3_blocks_decay_0.9", 3, 0.9, "mlp"),
        ("vit_2_blocks_decay_0.98_swiglu", 2, 0.98, "swiglu"),
        ("head", 0, 0.9, ""),
    ],
)
def test_every_parameter_has_the_official_multipliers(case: str, blocks: int, layer_decay: float, ffn: str) -> None:
    module: nn.Module
    if case == "head":
        module = Head(8, HeadConfig(hidden=8, bottleneck=4, prototypes=6), seed=0)
    else:
        module = VisionTransformer(VitConfig(dim=16, depth=blocks, heads=2, ffn=ffn, ffn_hidden=32, patch_size=4))
    found = by_name(module, _config(layer_decay=layer_decay, patch_embed_lr=0.2))
    assert {name.replace("register_tokens", "storage_tokens") for name in found} == set(GOLDEN[case])
    for name, expected in GOLDEN[case].items():
        result = found[name.replace("storage_tokens", "register_tokens")]
        assert result.lr == pytest.approx(expected["lr_multiplier"], rel=1e-9), name
        assert result.weight_decay == expected["wd_multiplier"], name
        assert result.last_layer == expected["is_last_layer"], name


def by_name(module: nn.Module, config: optim.Config) -> dict[str, optim.Multipliers]:
    optimizer = optim.optimizer({"part": module}, config)
    found = {id(p): group["multipliers"] for group in optimizer.param_groups for p in group["params"]}
    return {name: found[id(parameter)] for name, parameter in module.named_parameters()}


def test_a_convnext_decays_by_its_depth_and_its_norms_are_not_pulled_to_zero() -> None:
    network = ConvNeXt(ConvNeXtConfig(dims=(4, 6, 8, 10), depths=(1, 2, 1, 1)))
    found = by_name(network, _config(layer_decay=0.5, patch_embed_lr=0.2))
    rates = {
        "downsample_layers.0.0.weight": 0.2 * 0.5**6,  # 5 blocks and the embedding
        "stages.0.0.pwconv1.weight": 0.5**5,
        "downsample_layers.1.1.weight": 0.5**4,
        "stages.1.1.pwconv1.weight": 0.5**3,
        "stages.3.0.dwconv.weight": 0.5,
        "norm.weight": 1.0,
    }
    assert {name: found[name].lr for name in rates} == pytest.approx(rates)
    decayed = {name for name, each in found.items() if each.weight_decay}
    matrices = {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
    assert decayed == matrices


def test_a_resnet_decays_by_its_depth_and_no_batch_norm_is_pulled_to_zero() -> None:
    network = ResNet(ResNetConfig(width=2, depths=(1, 2, 1, 1)))
    found = by_name(network, _config(layer_decay=0.5, patch_embed_lr=0.2))
    rates = {"conv1.weight": 0.2 * 0.5**6, "layer1.0.conv1.weight": 0.5**5, "layer2.1.bn2.weight": 0.5**3}
    assert {name: found[name].lr for name in rates} == pytest.approx(rates)
    assert found["layer4.0.downsample.0.weight"].lr == 0.5
    assert {name for name, each in found.items() if each.weight_decay} == {
        name for name, parameter in network.named_parameters() if parameter.ndim == 4
    }


def _config(**changes: object) -> optim.Config:
    return optim.Config(**({"lr": constant(0.1), "weight_decay": constant(0.5)} | changes))  # type: ignore[arg-type]


def _head() -> tuple[Head, dict[str, nn.Module]]:
    head = Head(4, HeadConfig(hidden=4, bottleneck=3, prototypes=5), seed=0)
    return head, {"head": head}


def test_a_frozen_last_layer_stays_while_the_rest_moves() -> None:
    for freeze in ("rate", "gradient"):
        head, parts = _head()
        before = {name: value.clone() for name, value in head.state_dict().items()}
        config = _config(freeze_last_layer=1, freeze=freeze)
        optimizer = optim.optimizer(parts, config)
        for step, moved in ((0, False), (1, True)):
            optim.set_rates(optimizer, config, step=step)
            head(torch.randn(6, 4)).square().sum().backward()
            optim.drop_frozen_gradients(optimizer, config, step=step)
            optimizer.step()
            optimizer.zero_grad()
            assert torch.equal(head.last_layer.weight, before["last_layer.weight"]) is not moved
            assert not torch.equal(head.mlp[0].weight, before["mlp.0.weight"])


def test_frozen_gradients_leave_no_moments_and_frozen_rates_do() -> None:
    moments = {}
    for freeze in ("rate", "gradient"):
        head, parts = _head()
        config = _config(freeze_last_layer=1, freeze=freeze)
        optimizer = optim.optimizer(parts, config)
        optim.set_rates(optimizer, config, step=0)
        head(torch.randn(6, 4)).square().sum().backward()
        optim.drop_frozen_gradients(optimizer, config, step=0)
        optimizer.step()
        moments[freeze] = len(optimizer.state.get(head.last_layer.weight, {}))
    assert moments["rate"] > 0
    assert moments["gradient"] == 0


@pytest.mark.parametrize("clip_per", ["part", "parameter"])
def test_clipping_bounds_each_unit_and_reports_the_norm_before(clip_per: str) -> None:
    parts: dict[str, nn.Module] = {"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}
    for module in parts.values():
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, 3.0)
    for parameter in parts["b"].parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    norms = optim.clip_gradients(parts, _config(clip=1.0, clip_per=clip_per))
    assert norms["a"] == pytest.approx((6 * 9) ** 0.5)
    units = [list(parts["a"].parameters())] if clip_per == "part" else [[p] for p in parts["a"].parameters()]
    for unit in units:
        assert sum(float(p.grad.square().sum()) for p in unit if p.grad is not None) == pytest.approx(1, rel=1e-5)
    for parameter in parts["b"].parameters():  # below the limit: untouched, whatever the other part did
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.full_like(parameter, 1e-3))


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": constant(-1e-3)},
        {"lr": cosine(1e-3, -1e-6, steps=4)},
        {"weight_decay": constant(-0.1)},
        {"patch_embed_lr": -1.0},
        {"freeze_last_layer": -1},
    ],
)
def test_negative_rates_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} must be at least 0"):
        _config(**wrong)


def test_moments_survive_saving_by_name() -> None:
    head, parts = _head()
    config = _config()
    optimizer = optim.optimizer(parts, config)
    optim.set_rates(optimizer, config, step=0)
    head(torch.randn(6, 4)).square().sum().backward()
    optimizer.step()
    fresh = optim.optimizer(parts, config)
    optim.load_state_by_name(fresh, parts, optim.state_by_name(optimizer, parts))
    for parameter in head.parameters():
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(fresh.state[parameter][key], value), key
