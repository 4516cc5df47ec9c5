"""Published weights by name: which architecture, under which licence, and where their file is found.

A name is ARCHITECTURE.WEIGHTS, such as vits14.dinov2_reg4. Its file is looked for in this order, the first wins:

1. the folder DINOKIT_WEIGHTS names (a mirror): NAME, NAME.safetensors or NAME.pth, the official file name, or the
   repository's name, the last two also inside sub-folders as the official servers and the hub have them;
2. what torch.hub downloaded earlier;
3. the cache of the Hugging Face hub, then the hub itself, which asks for a login where the licence was to be accepted.

Names of files: the official repositories of DINO, DINOv2 and DINOv3.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch

from dinokit.core.hub import PATIENCE, fetching
from dinokit.core.messages import UserError, info
from dinokit.images.intensity import Pixels

MIRROR = "DINOKIT_WEIGHTS"
APACHE = "Apache-2.0"
DINOV3 = "DINOv3 License"  # Meta's own: https://ai.meta.com/resources/models-and-libraries/dinov3-license
SATELLITE = Pixels((0.430, 0.411, 0.296), (0.213, 0.156, 0.143), size=256)  # statistics of SAT-493M
WHOLE = ("model.safetensors", "pytorch_model.bin")  # of transformers, the better first
DESCRIPTIONS = ("config.json", "preprocessor_config.json")
CACHED = [*DESCRIPTIONS, "model*.safetensors", f"{WHOLE[0]}.index.json"]  # what must be whole in the hub's cache


@dataclass(frozen=True)
class Release:
    """Published weights of one backbone."""

    architecture: str  # its name in models/architecture.py
    licence: str  # of the weights
    file: str  # official name without its hash
    repository: str | None  # on the Hugging Face hub
    pixels: Pixels


def _dino(name: str, file: str, *, hub: bool = True) -> Release:
    repository = f"facebook/dino-{name}" if hub else None
    return Release(f"dino_{name}", APACHE, f"dino_{file}_pretrain", repository, Pixels(size=224))


def _dinov2(name: str, size: str) -> dict[str, Release]:
    pixels = Pixels(size=224)
    plain, registers = f"facebook/dinov2-{size}", f"facebook/dinov2-with-registers-{size}"
    return {
        f"{name}.dinov2": Release(f"dinov2_{name}", APACHE, f"dinov2_{name}_pretrain", plain, pixels),
        f"{name}.dinov2_reg4": Release(f"dinov2_{name}_reg", APACHE, f"dinov2_{name}_reg4_pretrain", registers, pixels),
    }


def _dinov3(name: str, images: str = "lvd1689m") -> Release:
    repository = f"facebook/dinov3-{name.replace('_', '-')}-pretrain-{images}"
    pixels = SATELLITE if images == "sat493m" else Pixels(size=256)
    return Release(f"dinov3_{name}", DINOV3, f"dinov3_{name}_pretrain_{images}", repository, pixels)


RELEASES: dict[str, Release] = {
    "vits16.dino": _dino("vits16", "deitsmall16"),
    "vits8.dino": _dino("vits8", "deitsmall8"),
    "vitb16.dino": _dino("vitb16", "vitbase16"),
    "vitb8.dino": _dino("vitb8", "vitbase8"),
    "resnet50.dino": _dino("resnet50", "resnet50", hub=False),
    **_dinov2("vits14", "small"),
    **_dinov2("vitb14", "base"),
    **_dinov2("vitl14", "large"),
    **_dinov2("vitg14", "giant"),
    "vits16.dinov3_lvd1689m": _dinov3("vits16"),
    "vits16plus.dinov3_lvd1689m": _dinov3("vits16plus"),
    "vitb16.dinov3_lvd1689m": _dinov3("vitb16"),
    "vitl16.dinov3_lvd1689m": _dinov3("vitl16"),
    "vitl16.dinov3_sat493m": _dinov3("vitl16", "sat493m"),
    "vith16plus.dinov3_lvd1689m": _dinov3("vith16plus"),
    "vit7b16.dinov3_lvd1689m": _dinov3("vit7b16"),
    "vit7b16.dinov3_sat493m": _dinov3("vit7b16", "sat493m"),
    "convnext_tiny.dinov3_lvd1689m": _dinov3("convnext_tiny"),
    "convnext_small.dinov3_lvd1689m": _dinov3("convnext_small"),
    "convnext_base.dinov3_lvd1689m": _dinov3("convnext_base"),
    "convnext_large.dinov3_lvd1689m": _dinov3("convnext_large"),
}


def is_name(name: str) -> bool:
    """Tell whether published weights are meant; something of that name on disk comes first."""
    return bool(named(name)) and not os.path.exists(name)


def named(name: str) -> str:
    """Return the name of published weights: itself, or that of the only ones of an architecture; else nothing."""
    of_it = [weights for weights, release in RELEASES.items() if release.architecture == name]
    return name if name in RELEASES else of_it[0] if len(of_it) == 1 else ""


def of_file(file: Path) -> Release | None:
    """Return the published weights that a file is named after, by the official server or by the hub."""
    for release in RELEASES.values():
        if re.fullmatch(rf"{release.file}(-[0-9a-f]{{8}})?\.pth", file.name):
            return release
        repository = release.repository or "/"
        if f"models--{repository.replace('/', '--')}" in file.parts or file.parent.name == Path(repository).name:
            return release
    return None


def near(name: str) -> str:
    """Name the published weights that an architecture or a misspelt name may mean; nothing if there are none."""
    name = name.lower()
    of_it = [weights for weights, release in RELEASES.items() if release.architecture == name]
    return " or ".join(of_it or get_close_matches(name, RELEASES, n=2, cutoff=0.7))


def find(name: str) -> Path:
    """Return the file or folder of published weights; downloads it if it is nowhere on this machine.

    Args:
        name: one of RELEASES.
    Raises:
        UserError: naming every place to put the file if it cannot be had.
    """
    release = RELEASES[name]
    for folder in _folders():
        for candidate in _candidates(folder, name, release):
            if _holds_weights(candidate):
                return candidate
    if release.repository is None:
        raise UserError(f"{name} is not on this machine nor on the Hugging Face hub; {_instead(name, release)}")
    return _from_hub(name, release, release.repository)


def _folders() -> Iterator[Path]:
    mirror = os.environ.get(MIRROR)
    if mirror:
        folder = Path(os.path.expanduser(mirror))
        if not folder.is_dir():
            raise UserError(f"{MIRROR} says {mirror}, which is no folder; make it one or unset the variable")
        yield folder
    yield Path(torch.hub.get_dir()) / "checkpoints"


def _candidates(folder: Path, name: str, release: Release) -> Iterator[Path]:
    """List where the weights may be in a folder, the surest first."""
    yield from (folder / name, folder / f"{name}.safetensors", folder / f"{name}.pth")
    for pattern in (f"{release.file}.pth", f"{release.file}-????????.pth"):  # DINOv3's carry eight digits of a hash
        yield from sorted(folder.glob(pattern))
        yield from sorted(folder.glob(f"*/{pattern}"))
    if release.repository is not None:
        yield folder / release.repository
        yield folder / Path(release.repository).name


def _holds_weights(path: Path) -> bool:
    """Tell whether a candidate can be loaded; a folder needs a file of weights, whole or in all its parts."""
    if path.is_file() or any((path / name).is_file() for name in WHOLE):
        return True
    parts = sorted(path.glob("model-*-of-*.safetensors"))
    of_all = parts[0].stem.rpartition("-")[2] if parts else ""  # model-00001-of-00006
    return (path / f"{WHOLE[0]}.index.json").is_file() and of_all.isdigit() and len(parts) == int(of_all)


def _from_hub(name: str, release: Release, repository: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(repository, allow_patterns=CACHED, local_files_only=True))
        if _holds_weights(cached):
            return cached
    except LocalEntryNotFoundError:
        pass
    with fetching(f"{name} ({repository})", instead=_instead(name, release)):
        files = [file.rfilename for file in HfApi().model_info(repository, timeout=PATIENCE).siblings or []]
        wanted = _wanted(files)
        info(f"downloading {repository} ({release.licence}) from the Hugging Face hub")
        return Path(snapshot_download(repository, allow_patterns=wanted))


def _wanted(files: list[str]) -> list[str]:
    """Choose the files of a repository that `load` reads: one kind of weights, not every one that is there."""
    parts = [file for file in files if file.startswith("model-") and file.endswith(".safetensors")]
    whole = [file for file in WHOLE if file in files][:1]
    return [*DESCRIPTIONS, *(whole if whole == [WHOLE[0]] or not parts else [*parts, f"{WHOLE[0]}.index.json"])]


def _instead(name: str, release: Release) -> str:
    mirror = os.environ.get(MIRROR)
    where = f"the folder {mirror}" if mirror else f"a folder and set {MIRROR} to that folder"
    official = f"{release.file}-*.pth" if release.licence == DINOV3 else f"{release.file}.pth"
    return f"put {official}, {name}.pth or {name}.safetensors into {where}"
