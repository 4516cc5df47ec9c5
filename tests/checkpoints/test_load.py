"""Whatever is given as a model is loaded, or refused in one line that tells nobody to switch the safety off."""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dinokit.checkpoints.load import header, load
from dinokit.core import device
from dinokit.core.errors import UserError
from dinokit.models.vit import VisionTransformer

MakeVit = Callable[..., VisionTransformer]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "weights_only" not in message
    return message


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"I like trains.\n", b"c", b"(lp0\n.", b"0", b"\x80\x02]q\x00.", b"}"]
)
def test_a_file_of_something_else_is_no_weights(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.pth").write_bytes(content)
    assert "notes.pth" in refusal(tmp_path / "notes.pth")


@pytest.mark.parametrize("value", [[torch.zeros(2)], None, 3, torch.zeros(2), {0: torch.zeros(2)}])
def test_a_pth_without_named_weights_says_what_it_holds(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "x.pth")
    assert f"holds a {type(value).__name__}; expected weights by name" in refusal(tmp_path / "x.pth")


def test_objects_that_could_run_code_are_named_and_refused(tmp_path: Path) -> None:
    torch.save({"args": Namespace(lr=1)}, tmp_path / "x.pth")
    assert "it holds argparse.Namespace, and loading that could run code" in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("blocks.999999.norm1.weight", torch.zeros(16), "expected blocks 0 to 2, got number 999999"),
        ("register_tokens", torch.zeros(3), "expected 3 axes in 'register_tokens'"),
        ("rope_embed.periods", torch.zeros(0), "not a multiple"),
        ("blocks.0.mlp.w12.weight", torch.tensor(1.0), "blocks.0.mlp.w12.weight"),
    ],
)
def test_odd_tensors_are_named(tmp_path: Path, make_vit: MakeVit, key: str, value: Tensor, message: str) -> None:
    torch.save(make_vit().state_dict() | {key: value}, tmp_path / "x.pth")
    assert message in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "about",
    [
        "",
        "[]",
        "null",
        "3",
        "{}",
        '{"architecture": null, "pixels": {}}',
        '{"kind": "convnext", "architecture": {"dim": 3}, "pixels": {}}',
        '{"kind": "vitt", "architecture": {}, "pixels": {}}',
        '{"kind": ["vit"], "architecture": {}, "pixels": {}}',
        '{"architecture": {"dim": 1e999}, "pixels": {}}',
    ],
)
def test_a_header_of_nonsense_is_refused(tmp_path: Path, make_vit: MakeVit, about: str) -> None:
    save_file(make_vit().state_dict(), tmp_path / "x.safetensors", {"dinokit": about})
    assert "its header says" in refusal(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 10**9}, "describes 1000000000 blocks and holds 32 tensors"),
        ({"dim": 4 * 10**6}, "does not fit"),
        ({"dim": 4 * 10**12}, "cannot exist"),
        ({"registers": 10**40}, "cannot exist"),
        ({"ffn_hidden": 10**30}, "cannot exist"),
    ],
)
def test_absurd_sizes_ask_for_no_memory(
    tmp_path: Path, make_vit: MakeVit, change: dict[str, int], message: str
) -> None:
    backbone = make_vit()
    about = header(replace(backbone.config, **change), backbone.pixels, step=0)  # type: ignore[arg-type]
    save_file(backbone.state_dict(), tmp_path / "x.safetensors", about)
    assert message in refusal(tmp_path / "x.safetensors")


def test_a_header_without_a_kind_is_that_of_a_transformer(tmp_path: Path, make_vit: MakeVit) -> None:
    """Runs made before there were other kinds."""
    backbone = make_vit()
    about = json.loads(header(backbone.config, backbone.pixels, step=0)["dinokit"])
    assert about.pop("kind") == "vit"
    save_file(backbone.state_dict(), tmp_path / "x.safetensors", {"dinokit": json.dumps(about)})
    assert load(tmp_path / "x.safetensors").dim == backbone.dim


def test_an_absurd_image_size_is_refused(tmp_path: Path, make_vit: MakeVit) -> None:
    backbone = make_vit()
    about = json.loads(header(backbone.config, backbone.pixels, step=0)["dinokit"])
    about["pixels"]["size"] = 10**9
    save_file(backbone.state_dict(), tmp_path / "x.safetensors", {"dinokit": json.dumps(about)})
    assert "pixels.size must be a side of 1 to" in refusal(tmp_path / "x.safetensors")


def test_the_meta_device_computes_nothing() -> None:
    with pytest.raises(UserError, match="device 'meta' is not usable here"):
        device.choose("meta")


def test_calls_from_python_that_cannot_work_say_what_was_expected() -> None:
    """In another process: here the type checker of the tests would speak first."""
    script = """
import torch, dinokit
from dinokit.core.errors import UserError
from dinokit.models.variants import VARIANTS
from dinokit.models.vit import VisionTransformer
vit = VisionTransformer(VARIANTS["vit_micro"])
calls = [lambda: dinokit.load(None), lambda: vit(torch.zeros(3, 32, 32)), lambda: vit(torch.zeros(1, 3, 32, 32).byte())]
for call in calls:
    try:
        call()
    except UserError as error:
        print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert said[0] == "expected the path of a run folder or a weights file, or a name, got None"
    assert said[1].startswith("expected images of shape [batch, channel, height, width], got [3, 32, 32]")
    assert said[2] == "expected normalised images of floating point numbers, got torch.uint8; see model.pixels"
