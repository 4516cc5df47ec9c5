"""Whatever is given as a model is loaded, or refused in one line that tells nobody to switch the safety off."""

import json
import os
import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jaxtyping
import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import dinokit
from dinokit.checkpoints.load import NumpyArray, load, read
from dinokit.checkpoints.store import header
from dinokit.core import device
from dinokit.core.messages import UserError
from dinokit.models.architecture import VARIANTS
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


def test_plain_values_of_python_and_numpy_may_lie_beside_weights(tmp_path: Path) -> None:
    values = [numpy.str_("a"), numpy.bytes_(b"a"), numpy.longdouble(3), numpy.datetime64("2020-01-01")]
    values += [numpy.random.get_state(), numpy.ones(2), defaultdict(list, a=[1]), OrderedDict(a=1)]
    torch.save({"weight": torch.ones(2), "values": values}, tmp_path / "x.pth")
    assert read(tmp_path / "x.pth")[0]["weight"].tolist() == [1, 1]


def test_an_array_of_addresses_is_not_made(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return numpy.ndarray, ((1,), "O", bytes(8))

    torch.save({"x": Evil()}, tmp_path / "x.pth")
    assert isinstance(read(tmp_path / "x.pth")[0]["x"], NumpyArray)


def test_objects_that_could_run_code_are_named_and_refused(tmp_path: Path) -> None:
    torch.save({"args": Fraction(1, 2)}, tmp_path / "x.pth")
    assert "it holds fractions.Fraction, and loading that could run code" in refusal(tmp_path / "x.pth")


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
    ("change", "message"),
    [
        (lambda value: value.to(torch.int8), "holds strided torch.int8 in cls_token"),
        (lambda value: value.to(torch.complex64), "holds strided torch.complex64 in cls_token"),
        (lambda value: value.to("meta"), "holds no data in cls_token"),
        (lambda value: value.index_fill(-1, torch.tensor([3]), torch.nan), "NaN or infinite numbers in cls_token"),
        (lambda value: value.half().index_fill(-1, torch.tensor([0]), -torch.inf), "infinite numbers in cls_token"),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_refused(
    tmp_path: Path, make_vit: MakeVit, change: Callable[[Tensor], Tensor], message: str
) -> None:
    state = make_vit().state_dict()
    torch.save(state | {"cls_token": change(state["cls_token"])}, tmp_path / "x.pth")
    assert message in refusal(tmp_path / "x.pth")


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path: Path) -> None:
    checkpoint: dict[str, object] = {}
    checkpoint["model"] = {"state_dict": checkpoint}
    torch.save(checkpoint, tmp_path / "x.pth")
    assert "holds itself" in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a" * 5000, "no model at aaa"),
        ("timm/" + "a" * 5000, "unknown model of timm"),
        ("hf/" + "a" * 5000, "hf/aaa"),
        ("nul\0.pth", "no model at nul"),
        ("", "no model is given"),
        ("VITS14.DINOV2", "did you mean vits14.dinov2"),
        ("dinov3_vitl16", "did you mean vitl16.dinov3_lvd1689m or vitl16.dinov3_sat493m?"),
        ("vit_micro", "the name of published weights"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_no_file_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pth")
    assert "no model at" in refusal(tmp_path / "x.pth")
    os.mkfifo(tmp_path / "model.safetensors")
    assert "holds no model.safetensors" in refusal(tmp_path)


def test_home_is_understood(tmp_path: Path, make_vit: MakeVit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(make_vit().state_dict(), tmp_path / "x.pth")
    assert load("~/x.pth").dim == make_vit().dim


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
        ({"registers": 10**40}, "expected a whole number"),
        ({"ffn_hidden": 10**30}, "expected a whole number"),
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
    assert about["architecture"].pop("kind") == "vit"
    save_file(backbone.state_dict(), tmp_path / "x.safetensors", {"dinokit": json.dumps(about)})
    assert load(tmp_path / "x.safetensors").dim == backbone.dim


def test_an_absurd_image_size_is_refused(tmp_path: Path, make_vit: MakeVit) -> None:
    backbone = make_vit()
    about = json.loads(header(backbone.config, backbone.pixels, step=0)["dinokit"])
    about["pixels"]["size"] = 10**9
    save_file(backbone.state_dict(), tmp_path / "x.safetensors", {"dinokit": json.dumps(about)})
    assert "size must be between 1 and" in refusal(tmp_path / "x.safetensors")


def test_the_meta_device_computes_nothing() -> None:
    with pytest.raises(UserError, match="device 'meta' is not usable here"):
        device.choose("meta")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the type checker of the tests, which would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_calls_from_python_that_cannot_work_say_what_was_expected(unchecked: None) -> None:
    vit: Any = VisionTransformer(VARIANTS["vit_micro"])
    load: Any = dinokit.load
    image = torch.zeros(1, 3, 32, 32)
    calls: list[Callable[[], object]] = [
        lambda: load(None), lambda: vit(image[0]), lambda: vit(image.byte()), lambda: vit(None),
        lambda: vit.intermediate([image], 1), lambda: vit(image[:0]), lambda: vit(image, masks=torch.zeros(1, 64)),
        lambda: vit.intermediate(image, 1.5), lambda: vit.intermediate(image, "1"), lambda: vit.intermediate(image, 99),
        lambda: load("x.pth", heads="3"),
    ]  # fmt: skip
    said = []
    for call in calls:
        with pytest.raises(UserError) as caught:
            call()
        said.append(str(caught.value))
    assert said[0] == "expected the path of a run folder or a weights file, or a name, got None"
    assert said[1].startswith("expected images of shape [batch, channel, height, width], got [3, 32, 32]")
    assert said[2:] == [
        "expected normalised images of floating point numbers, got torch.uint8; see model.pixels",
        "expected normalised tensors, got a NoneType; of files, pictures and arrays model.transform(...) makes them",
        "expected a torch tensor of images, got a list",
        "expected at least one image, got a batch of none",
        "masks must be bool, True where a patch is hidden, got torch.float32",
        "expected a number of blocks or a list of their indices, got 1.5",
        "expected a number of blocks or a list of their indices, got '1'",
        "the model has 6 blocks, 0 to 5; got 99",
        "expected heads to be a whole number, got '3'",
    ]
