"""Write a model in another layout: official, Hugging Face transformers, timm or our own.

Before anything is written, the result is read back as `load` would and compared: weights bit by bit, settings one by
one. What the target cannot express is refused. Only what training alone uses may be left behind, and is named.
"""

import os
import shutil
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dinokit.checkpoints.layouts.names import FOR_TRAINING, PERIODS, Exported, State
from dinokit.checkpoints.layouts.recognise import EXPORTS, recognise
from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import MODEL, header
from dinokit.core.files import sync, write_atomic, write_json
from dinokit.core.messages import UserError, info, reason, unknown_name
from dinokit.models.architecture import OPTIONAL, Architecture, Network, published_heads

SUFFIX = {"official": ".pth", "dinokit": ".safetensors"}  # the others are folders


def convert(source: Path, out: Path, *, to: str, heads: int | None = None, exact_periods: bool = False) -> list[str]:
    """Write the model of `source` to `out` and return the names of the weights that were left behind.

    Args:
        source: whatever `load` takes.
        out: a file NAME.pth for official or NAME.safetensors for dinokit, a folder for hf and timm; must not exist.
        to: official, hf, timm or dinokit.
        heads: see `load`.
        exact_periods: see `load`.
    Raises:
        UserError: if the target is unknown, `out` exists or is misnamed, or the target cannot express the model.
    """
    _check_out(out, to)
    backbone = load(source, heads=heads, exact_periods=exact_periods)
    if not isinstance(backbone, Network):
        raise UserError(f"{source} runs in another library; convert its weights file or folder instead")
    stem = getattr(backbone.config, "stem", None)
    if to != "dinokit" and stem is not None:
        raise UserError(
            f"{to} cannot express this model: it begins with a stem, {stem} channels and a GELU, which "
            "no patch embedding computes and no other layout has; --to dinokit keeps it, and `dinokit pretrain RECIPE "
            "--backbone.stem null` trains a network that every layout holds"
        )
    left: list[str] = []
    if to == "dinokit":
        exported = Exported(backbone.state_dict(), {})
        about = header(backbone.config, backbone.pixels, step=0, licence=backbone.licence)
    else:
        exported = EXPORTS[to](backbone)
        left = _read_back(backbone, exported, to)
        about = {"format": "pt"}  # transformers insists on it
    try:
        _write(exported, out, about)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {out}: {reason(error) if isinstance(error, OSError) else error}") from error
    heads = _unsaid_heads(backbone.config, to)
    if heads is not None:
        info(f"an official file has no place for the number of heads: load this one with heads={heads}")
    if to == "official" and backbone.licence is not None:
        info(f"these weights are under the {backbone.licence}, which an official file has no place for; keep it beside")
    return left


def _check_out(out: Path, to: str) -> None:
    if to not in (*EXPORTS, "dinokit"):
        raise unknown_name("layout", to, [*EXPORTS, "dinokit"])
    if out.exists():
        raise UserError(f"{out} exists and is not overwritten; remove it or choose another place")
    wanted = SUFFIX.get(to, "")
    known = out.suffix if out.suffix in (".pth", ".pt", ".safetensors", ".bin") else ""
    if known != wanted:
        kind = f"a file such as {out.with_suffix(wanted)}" if wanted else f"a folder such as {out.with_suffix('')}"
        raise UserError(f"--to {to} writes {kind}, not {out}")


def _read_back(backbone: Network, exported: Exported, to: str) -> list[str]:
    """Return what the export lacks and only training uses, or raise a UserError that names what would be lost."""
    mine, heads = backbone.config, _unsaid_heads(backbone.config, to)
    files = {name: content for name, content in exported.files.items() if isinstance(content, dict)}
    try:
        found, state, _, _ = recognise(exported.weights, files, file=f"the {to} export", heads=heads)
    except UserError as error:
        raise UserError(f"{to} cannot express this model: {error}") from error
    assert type(mine) is type(found)  # no network is written under the names of another kind
    names = [field.name for field in fields(mine) if field.name not in OPTIONAL]
    pairs = [(name, getattr(found, name), getattr(mine, name)) for name in names]
    if mine.kind == "vit" and found.kind == "vit":
        rope = ("coordinates", "dtype")
        pairs += [(f"rope.{name}", getattr(found.rope, name), getattr(mine.rope, name)) for name in rope]
    changed = [f"{name} {theirs} for {ours}" for name, theirs, ours in pairs if theirs != ours]
    if changed:
        raise UserError(f"{to} cannot express this model: it would be read with {', '.join(changed)}")
    before, after = _effective(mine, backbone.state_dict()), _effective(found, state)
    left = [key for key in before if key not in after and FOR_TRAINING.fullmatch(key)]
    lost = [key for key in before if key not in left and not _same(key, before[key], after.get(key))]
    if lost:
        raise UserError(f"{to} cannot express this model: it would lose {', '.join(lost[:8])}")
    return left


def _unsaid_heads(config: Architecture, to: str) -> int | None:
    """Return how many heads a network has, where its layout does not say it and nobody could know."""
    if to != "official" or config.kind != "vit" or config.position == "rope":
        return None
    return None if published_heads(config.dim, rotary=False) else config.heads


def _effective(config: Architecture, state: State) -> State:
    """Reduce weights to what the network computes with: the sum of CLS and its position, biases without masked ones."""
    found = dict(state)
    if "pos_embed" in found:
        found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    if config.kind == "vit" and config.qkv_bias == "qv":
        for key in [key for key in found if key.endswith("attn.qkv.bias")]:
            queries, keys, values = found[key].chunk(3)
            found[key] = torch.cat([queries, torch.zeros_like(keys), values])
    return found


def _same(key: str, before: Tensor, after: Tensor | None) -> bool:
    if after is None:
        return False
    if key == PERIODS:  # computed anew, perhaps on another machine: see `names.rounding`
        return torch.allclose(before, after, rtol=1e-6, atol=0)
    return torch.equal(before, after)


def _write(exported: Exported, out: Path, about: dict[str, str]) -> None:
    """Write a file or a folder, by the name of `out`, whole or not at all."""
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in exported.weights.items()}
    if out.suffix == SUFFIX["official"]:
        with write_atomic(out) as temporary, temporary.open("wb") as file:  # by its path, torch hides what went wrong
            torch.save(weights, file)
        return
    if out.suffix == SUFFIX["dinokit"]:
        with write_atomic(out) as temporary:
            save_file(weights, temporary, about)
        return
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    partial.mkdir(parents=True)
    try:
        with write_atomic(partial / MODEL) as temporary:
            save_file(weights, temporary, about)
        for name, content in exported.files.items():
            write_json(partial / name, content)
        partial.rename(out)
        sync(out.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
