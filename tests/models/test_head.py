"""The projection head: golden numbers, normalisation, kinds of prototypes."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinokit.core.messages import UserError
from dinokit.models.head import Config, Head

GOLDEN = Path(__file__).parent.parent / "golden" / "dinov3_head.safetensors"
SMALL = {"hidden": 12, "bottleneck": 6, "prototypes": 10}


def vectors(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 8, generator=torch.Generator().manual_seed(0))


def test_the_head_reproduces_the_official_logits() -> None:
    tensors = load_file(GOLDEN)
    state = {key[2:]: value for key, value in tensors.items() if key.startswith("w.")}
    hidden, (prototypes, bottleneck) = len(state["mlp.0.weight"]), state["last_layer.weight"].shape
    head = Head(24, Config(hidden=hidden, bottleneck=bottleneck, prototypes=prototypes, weight_norm="none"), seed=0)
    head.load_state_dict(state)
    torch.testing.assert_close(head(tensors["in.x"]), tensors["out.logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("weight_norm", ["none", "fixed", "trainable"])
def test_the_two_halves_make_the_whole(weight_norm: str) -> None:
    head = Head(8, Config(**SMALL, weight_norm=weight_norm), seed=0)
    projected = head.project(vectors(2, 3))
    torch.testing.assert_close(projected.norm(dim=-1), torch.ones(2, 3))
    torch.testing.assert_close(head(vectors(2, 3)), projected @ head.prototypes.T)
    torch.testing.assert_close(head(vectors(2, 3))[1, 2], head(vectors(2, 3)[1, 2]))


def test_normed_prototypes_have_length_g() -> None:
    head = Head(8, Config(**SMALL, weight_norm="trainable"), seed=0)
    with torch.no_grad():
        head.last_layer.weight_g.fill_(3.0)
        head.last_layer.weight_v.mul_(7.0)  # the length of v must not matter
    torch.testing.assert_close(head.prototypes.norm(dim=-1), torch.full((10,), 3.0))


def test_only_trainable_lengths_are_trained() -> None:
    for weight_norm, trained in (("fixed", False), ("trainable", True)):
        head = Head(8, Config(**SMALL, weight_norm=weight_norm), seed=0)
        head(vectors(4)).square().sum().backward()
        assert (head.last_layer.weight_g.grad is not None) == trained
        assert head.last_layer.weight_v.grad.any()


def test_any_batch_axes_and_no_rows_at_all() -> None:
    head = Head(8, Config(**SMALL), seed=0)
    torch.testing.assert_close(head(vectors(2, 3)).flatten(0, 1), head(vectors(6)))
    assert head(vectors(0)).shape == (0, 10)


def test_narrow_weights_have_the_scale_of_their_inputs() -> None:
    head = Head(64, Config(hidden=256, bottleneck=64, prototypes=512, init="narrow"), seed=0)
    assert head.mlp[2].weight.std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert head.last_layer.weight.norm(dim=1).mean().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("layers", "names"), [(1, ["0"]), (2, ["0", "2"]), (3, ["0", "2", "4"])])
def test_layers_have_their_official_names(layers: int, names: list[str]) -> None:
    head = Head(8, Config(**SMALL, layers=layers), seed=0)
    found = [key.split(".")[1] for key in head.state_dict() if key.startswith("mlp") and key.endswith("weight")]
    assert found == names
    assert head(vectors(2)).shape == (2, 10)


def test_a_zero_vector_in_half_precision_stays_finite() -> None:
    head = Head(8, Config(**SMALL), seed=0).half()
    assert head.project(torch.zeros(1, 8, dtype=torch.float16)).isfinite().all()


def test_the_last_layer_runs_in_the_autocast_dtype() -> None:
    head = Head(8, Config(**SMALL), seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(vectors(2)).dtype == torch.bfloat16


def test_a_head_can_be_copied_after_use() -> None:
    head = Head(8, Config(**SMALL, weight_norm="trainable"), seed=0)
    head(vectors(2)).sum().backward()
    torch.testing.assert_close(copy.deepcopy(head)(vectors(2)), head(vectors(2)))


def test_an_empty_size_is_an_error() -> None:
    with pytest.raises(UserError, match="prototypes must be at least 1"):
        Config(prototypes=0)
