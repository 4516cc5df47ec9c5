"""Every layout into every other: the same bits come back, the peers compute the same, nothing is lost in silence."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dinokit import cli
from dinokit.checkpoints.convert import convert
from dinokit.checkpoints.layouts import huggingface, names, recognise, timm
from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import header
from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.models.architecture import VARIANTS
from dinokit.models.vit import Config, VisionTransformer

GOLDEN = Path(__file__).parent.parent / "golden"
TARGETS = {"official": "x.pth", "hf": "hf", "timm": "timm", "dinokit": "x.safetensors"}
PUBLISHED = [name for name in VARIANTS if name.startswith("dino")]
SMALLEST = [
    *("dino_vits16", "dinov2_vits14", "dinov2_vitg14", "dinov2_vits14_reg", "dinov2_vitg14_reg"),
    *("dinov3_vits16", "dinov3_vits16plus", "dinov3_vit7b16"),
]
TINY: dict[str, Any] = {"dim": 128, "depth": 2, "heads": 2}  # heads as wide as official ones
WEIGHTED = ("weight", "bias", "gamma", "token", "tokens", "pos_embed")


def tiny(name: str) -> Config:
    """A published architecture made small."""
    config = VARIANTS[name]
    hidden = 512 if config.ffn == "mlp" else 344
    grid = None if config.position_grid is None else 4
    return replace(config, **TINY, patch_size=4, position_grid=grid, ffn_hidden=hidden)


def saved(folder: Path, config: Config, *, licence: str | None = None) -> Path:
    """A model of ours with every weight random, and pixels that no default has."""
    model = VisionTransformer(config)
    draw = torch.Generator().manual_seed(0)
    state = model.state_dict()
    for key, value in state.items():
        if key.endswith(WEIGHTED):
            value.copy_(0.1 * torch.randn(value.shape, generator=draw))
    for key in [key for key in state if key.endswith("attn.qkv.bias") and config.qkv_bias == "qv"]:
        state[key][config.dim : 2 * config.dim] = 0  # the masked ones, as training leaves them
    pixels = Pixels((0.4, 0.4, 0.3), (0.2, 0.1, 0.1), 20)
    path = folder / "model.safetensors"
    save_file(state, path, header(config, pixels, step=0, licence=licence))
    return path


def heads(path: Path) -> int | None:
    """What an official file has no place for."""
    return TINY["heads"] if path.suffix == ".pth" else None


@torch.no_grad()
def features(path: Path, size: tuple[int, int] = (16, 24), *, told: bool = True) -> Tensor:
    out = load(path, heads=heads(path) if told else None)(
        torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    )
    return torch.cat([out.cls[:, None], out.registers, out.patches], dim=1)


def weights(path: Path) -> dict[str, Tensor]:
    return load(path, heads=heads(path)).state_dict()


def lost(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {key for key, value in before.items() if key not in after or not torch.equal(value, after[key])}


ALIKE = ("dinov2_vitg14_reg", "dinov3_vits16plus")  # each has its parts in two others


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.slow if each in ALIKE else []) for each in SMALLEST]
)
def test_there_and_back_is_bit_exact(tmp_path: Path, name: str, to: str) -> None:
    """Exceptions: what only training uses, if named; and timm adds the position of CLS to CLS."""
    source, there, back = saved(tmp_path, tiny(name)), tmp_path / TARGETS[to], tmp_path / "back.safetensors"
    left = convert(source, there, to=to)
    assert convert(there, back, to="dinokit", heads=heads(there)) == []
    folded = {"cls_token", "pos_embed"} if to == "timm" and name.endswith("_reg") else set()
    assert lost(weights(source), weights(back)) == set(left) | folded
    assert {key for key in left if not key.startswith("local_cls_norm")} <= {"mask_token"}
    assert left == [] or to in ("hf", "timm")
    assert torch.equal(features(back), features(source))
    if to in ("hf", "timm"):
        assert load(there).pixels == load(source).pixels


# every pair at least once, each name from and into every layout; all of them in CI
PAIRS = list(product(("official", "hf", "timm"), repeat=2))
CHAINS = [
    pytest.param(name, to, other, marks=[] if number % 3 == (row + row // 3) % 3 else pytest.mark.slow)
    for number, name in enumerate(("dino_vits16", "dinov2_vits14", "dinov2_vitg14_reg", "dinov3_vits16plus"))
    for row, (to, other) in enumerate(PAIRS)
]


@pytest.mark.parametrize(("name", "to", "other"), CHAINS)
def test_a_file_comes_back_from_another_layout_as_it_was(tmp_path: Path, name: str, to: str, other: str) -> None:
    """Only timm in the middle drops the mask token and, with registers, adds the position of CLS to CLS."""
    source = saved(tmp_path, tiny(name))
    paths = [tmp_path / f"{step}{'.pth' if kind == 'official' else ''}" for step, kind in enumerate((to, other, to))]
    for start, out, kind in zip([source, *paths], paths, (to, other, to)):
        convert(start, out, to=kind, heads=heads(start))
    changed = {key.removeprefix("embeddings.") for key in lost(load_any(paths[0]), load_any(paths[2]))}
    folded = {"cls_token", "pos_embed", "position_embeddings"} if name.endswith("_reg") else set()
    assert changed <= ({"mask_token"} | folded if other == "timm" else set())
    assert torch.equal(features(paths[0]), features(paths[2]))


def load_any(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True) if path.suffix else load_file(path / "model.safetensors")


@pytest.mark.parametrize(
    # slow are those that differ from another of their family in sizes alone
    "name",
    [pytest.param(each, marks=[] if each in SMALLEST else pytest.mark.slow) for each in PUBLISHED],
)
@pytest.mark.parametrize("export", [recognise.official, huggingface.export, timm.export])
def test_every_release_has_a_place_in_every_layout(name: str, export: Callable[..., names.Exported]) -> None:
    """At full size, without memory: what is written for each is recognised as the same architecture."""
    with torch.device("meta"):
        model = VisionTransformer(VARIANTS[name])
    if model.rope_embed is not None:
        model.rope_embed.periods = names.periods(model.config, None)[names.PERIODS]
    written = export(model)
    about = written.files.get("config.json", {})
    module = {"recognise": recognise, "huggingface": huggingface, "timm": timm}[export.__module__.rsplit(".", 1)[1]]
    if module is recognise:
        config = recognise.recognise(written.weights, {}, file="x").architecture
    else:
        config = module.recognise(written.weights, about, file="x")[0]
    assert (
        replace(config, **{key: getattr(VARIANTS[name], key) for key in ("mask_token", "untie_local_cls_norm", "rope")})
        == VARIANTS[name]
    )


@pytest.mark.parametrize("name", ["dinov3_vit_mlp", "dinov3_vit_swiglu", "dinov3_vit_swiglu64_nobias"])
@pytest.mark.parametrize("to", ["hf", "timm"])
def test_official_periods_survive_a_layout_without_them(tmp_path: Path, name: str, to: str) -> None:
    """Released files hold periods rounded to bfloat16, a zero bias mask and maybe a norm for local crops."""
    file = {key[2:]: value for key, value in load_file(GOLDEN / f"{name}.safetensors").items() if key.startswith("w.")}
    for key in [key for key in file if key.endswith("bias_mask")]:
        file[key] = torch.zeros_like(file[key])
    config = names.backbone(recognise.parts(file)["backbone"])
    file["rope_embed.periods"] = names.periods(config, "bfloat16")[names.PERIODS]
    torch.save(file, tmp_path / "official.pth")
    left = convert(tmp_path / "official.pth", tmp_path / to, to=to)
    assert set(left) <= {"mask_token", "local_cls_norm.weight", "local_cls_norm.bias"}
    assert ("local_cls_norm.weight" in left) == ("nobias" in name)
    convert(tmp_path / to, tmp_path / "back.pth", to="official")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    rebuilt = {key for key in file if key.endswith("bias_mask")}
    biases = {key.removesuffix("_mask") for key in rebuilt}
    assert lost(file, back) <= set(left) | rebuilt | biases
    for key in rebuilt:
        queries, keys, values = back[key].chunk(3)
        assert (queries.min(), keys.max(), values.min()) == (1, 0, 1)
    paths = (tmp_path / "back.pth", tmp_path / "official.pth")
    assert torch.equal(*(features(path, (48, 80), told=False) for path in paths))


def test_official_names_are_the_official_ones() -> None:
    """Against files of the official repositories: no name more, no name less."""
    for name, heads in (("dinov3_vit_mlp", None), ("dinov3_vit_swiglu", None), ("dinov3_vit_swiglu64_nobias", None),
                        ("dinov2_vit_giant_style", 3), ("dinov2_vit_registers", 3), ("dino_v1_vit", 3)):  # fmt: skip
        golden = load_file(GOLDEN / f"{name}.safetensors")
        file = {key[2:]: value for key, value in golden.items() if key.startswith("w.")}
        config, state, *_ = recognise.recognise(file, {}, file=name, heads=heads)
        model = VisionTransformer(config)
        model.load_state_dict(state)
        written = recognise.official(model).weights
        assert {k: v.shape for k, v in written.items()} == {k: v.shape for k, v in file.items()}
        assert all(torch.equal(written[key], file[key]) for key in file if not key.endswith("bias_mask"))


def test_transformers_and_timm_open_what_we_write(tmp_path: Path) -> None:
    """With registers and rope, where all three resize alike; measured 3e-6."""
    transformers, peer = pytest.importorskip("transformers"), pytest.importorskip("timm")
    images = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    for name in ("dinov2_vitg14_reg", "dinov3_vits16plus"):
        folder = tmp_path / name
        folder.mkdir()
        source = saved(folder, tiny(name))
        convert(source, folder / "hf", to="hf")
        convert(source, folder / "timm", to="timm")
        with torch.no_grad():
            theirs = transformers.AutoModel.from_pretrained(folder / "hf").eval()(images).last_hidden_state
            other = peer.create_model(f"local-dir:{folder / 'timm'}", pretrained=True).eval().forward_features(images)
        assert (theirs - features(source)).abs().max() < 1e-4
        assert (other - features(source)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("to", "change", "message"),
    [
        ("official", {"heads": 12, "dim": 384}, "heads 6 for 12"),
        ("official", {"norm_eps": 1e-3}, "norm_eps 1e-06 for 0.001"),
        ("official", {"stem": 8}, "official cannot express this model"),
        ("hf", {"stem": 8}, "hf cannot express this model"),
        ("hf", {"untie_cls_norm": True}, "it would be read with untie_cls_norm False for True"),
        ("hf", {"position": "antialias"}, "position offset for antialias"),
        ("hf", {"qkv_bias": "qv"}, "qkv_bias qkv for qv"),
        ("hf", {"ffn_hidden": 200}, "ffn_hidden 200"),
        ("timm", {"norm_eps": 1e-3}, "norm_eps 1e-06 for 0.001"),
        ("timm", {"stem": 8}, "timm cannot express this model"),
    ],
)
def test_what_a_layout_cannot_express_is_refused(tmp_path: Path, to: str, change: dict[str, Any], message: str) -> None:
    source = saved(tmp_path, replace(tiny("dinov2_vits14"), **change))
    with pytest.raises(UserError) as caught:
        convert(source, tmp_path / "out" / TARGETS[to], to=to)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_periods_of_another_base_are_kept_or_refused(tmp_path: Path) -> None:
    config = tiny("dinov3_vits16")
    source = saved(tmp_path, replace(config, rope=replace(config.rope, base=1000.0)))
    for to in ("official", "hf"):
        convert(source, tmp_path / TARGETS[to], to=to)
        assert torch.equal(features(tmp_path / TARGETS[to]), features(source))
    with pytest.raises(UserError, match=r"it would lose rope_embed\.periods"):
        convert(source, tmp_path / "timm", to="timm")


def test_a_wrong_rename_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gate and value exchanged on one side only: shapes fit, features do not."""
    source = saved(tmp_path, tiny("dinov2_vitg14"))
    swapped = {"blocks.#.mlp.w2.* + blocks.#.mlp.w1.*": "blocks.#.mlp.w12.*"}
    monkeypatch.setitem(recognise.TABLES, "dinov2", swapped)
    with pytest.raises(UserError, match=r"it would lose blocks\.0\.mlp\.w1\.weight"):
        convert(source, tmp_path / "x.pth", to="official")


@pytest.mark.parametrize("name", ["dinov2_vits14_reg", "dinov3_vits16"])
def test_a_licence_goes_with_its_weights_wherever_there_is_a_place(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved(tmp_path, tiny(name), licence="DINOv3 License")
    for to in ("hf", "timm", "dinokit"):
        convert(source, tmp_path / TARGETS[to], to=to)
        assert load(tmp_path / TARGETS[to]).licence == "DINOv3 License"
        assert "these weights are under" not in capsys.readouterr().err
        source = tmp_path / TARGETS[to]
    convert(source, tmp_path / TARGETS["official"], to="official")
    assert (
        "these weights are under the DINOv3 License, which an official file has no place for; keep it beside"
        in capsys.readouterr().err
    )
    assert load(f"hf/{tmp_path / 'hf'}").dim == load(f"timm/local-dir:{tmp_path / 'timm'}").dim == TINY["dim"]
    (tmp_path / "own").mkdir()
    convert(saved(tmp_path / "own", tiny(name)), tmp_path / "own" / "hf", to="hf")
    assert load(tmp_path / "own" / "hf").licence is None


def mistake(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert cli.run(["convert", *map(str, words)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_mistakes_on_the_command_line_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path, tiny("dino_vits16"))
    assert "unknown layout 'tim'; did you mean 'timm'" in mistake(capsys, source, tmp_path / "x", "--to", "tim")
    assert "exists and is not overwritten" in mistake(capsys, source, source, "--to", "dinokit")
    assert "writes a file such as" in mistake(capsys, source, tmp_path / "x", "--to", "official")
    assert "writes a folder such as" in mistake(capsys, source, tmp_path / "x.safetensors", "--to", "hf")
    assert "no model at nowhere" in mistake(capsys, "nowhere", tmp_path / "x", "--to", "hf")
    assert "cannot write" in mistake(capsys, source, "/proc/nowhere/x", "--to", "hf")
    assert "cannot write" in mistake(capsys, source, "/proc/nowhere/x.pth", "--to", "official")
    assert "cannot write /proc/x.pth" in mistake(capsys, source, "/proc/x.pth", "--to", "official")


def test_the_command_says_what_is_left_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path, tiny("dinov2_vits14"))
    assert cli.run(["convert", str(source), str(tmp_path / "timm"), "--to", "timm"]) == 0
    assert "timm has no place for mask_token, which only training uses" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "timm").iterdir()) == ["config.json", "model.safetensors"]
