"""Whose weights are these? Official, Hugging Face transformers' or timm's, by their keys and the files beside them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dinokit.checkpoints.layouts import huggingface, infer, official, timm
from dinokit.checkpoints.layouts.keymap import CONFIG, LICENCE, PREPROCESSOR, State
from dinokit.core.files import read_json
from dinokit.core.messages import UserError, info
from dinokit.images.intensity import Pixels
from dinokit.models import vit
from dinokit.models.architecture import Architecture
from dinokit.peers.huggingface import HALF
from dinokit.peers.huggingface import pixels as preprocessed

# torchvision's and timm's classifiers; those of transformers stand beside the backbone and not in it
CLASSIFIER = re.compile(r"(fc|head|head\.fc)\.(weight|bias)")
Files = Mapping[str, Mapping[str, Any]]  # content by file name


class Recognised(NamedTuple):
    """What a foreign file holds."""

    architecture: Architecture
    weights: State  # under our names
    pixels: Pixels  # of the images that they want
    assumed: list[str]  # of all this, what neither the file nor those beside it say


def beside(file: Path) -> Files:
    """Read the JSON files that describe a weights file and stand beside it.

    Raises:
        UserError: if one is damaged.
    """
    found = {name: read_json(file.parent / name) for name in (CONFIG, PREPROCESSOR) if (file.parent / name).is_file()}
    for name, content in found.items():
        if not isinstance(content, Mapping):
            raise UserError(f"{file.parent / name} holds a {type(content).__name__}; expected a table of settings")
    return found


def licence(about: Mapping[str, Any]) -> str | None:
    """Return what config.json says of the licence of the weights: where timm says it, or at the top."""
    places = (about, about.get("pretrained_cfg"))
    found = (place.get(LICENCE) for place in places if isinstance(place, Mapping))
    return next((name for name in found if isinstance(name, str)), None)


def recognise(checkpoint: Mapping[str, object], files: Files, *, file: str, heads: int | None = None) -> Recognised:
    """Return the architecture, the weights under our names, and what images they want.

    Keys of a classification head are left out, in one line that names them.

    Args:
        checkpoint: what the weights file holds; wrappers and prefixes are taken off, see `official.parts`.
        files: content of the JSON files beside it, see `beside`.
        file: for the messages; where its name says of whom the weights are, their images are known.
        heads: of attention, where nothing else says it.
    Raises:
        UserError: if nobody's weights are in it, or some of them do not fit; the message lists the keys.
    """
    about, preprocessor = files.get(CONFIG, {}), files.get(PREPROCESSOR, {})
    try:
        state = official.part(checkpoint, "backbone")
        left = [key for key in state if CLASSIFIER.fullmatch(key)]
        state = {key: value for key, value in state.items() if key not in left}
        if huggingface.matches(state):
            config, ours, others = huggingface.recognise(state, about, file=file, heads=heads)
            left += others
        elif timm.matches(state, about):
            config, ours = timm.recognise(state, about, file=file, heads=heads)
        else:
            told = infer.heads_of(about, heads)
            config, ours = official.recognise(state, heads=told)
    except UserError as error:
        raise UserError(f"{error}{_way_out(checkpoint, about, str(error))}") from error
    if left:
        info(f"left out of {file}: {infer.listed(sorted(left))}")
    usual, name = official.pixels(config), "/".join(Path(file).parts[-2:]).lower()
    if "augreg" in name and isinstance(config, vit.Config) and config.position_grid:  # of timm, of which only it says
        usual = Pixels(HALF.mean, HALF.std, config.position_grid * config.patch_size)
    described = about.get("pretrained_cfg", about)
    pixels = preprocessed(preprocessor, timm.pixels(described, usual))
    told = heads or about.get("num_attention_heads") or "rope_embed.periods" in state or "architecture" in about
    assumed = [] if told or not hasattr(config, "heads") else [f"{config.heads} heads of attention (heads=, --heads)"]
    if not ("image_mean" in preprocessor or "mean" in described or "augreg" in name or sum(pixels.mean) == 0):
        assumed.append(f"images of mean {pixels.mean} and std {pixels.std} (a {PREPROCESSOR} beside it says others)")
    return Recognised(config, ours, pixels, assumed)


def _way_out(checkpoint: Mapping[str, object], about: Mapping[str, Any], said: str) -> str:
    """Say where weights that are none of the family can run."""
    if "birder_version" in checkpoint or {"state", "task", "net_name"} <= checkpoint.keys():
        return "; it is a file of Birder, whose networks have names of their own and cannot be loaded"
    if "architecture" in about and "timm/" not in said:
        return "; others of timm are loaded as timm/local-dir:FOLDER"
    if "model_type" in about and "hf/" not in said:
        return "; others of transformers are loaded as hf/FOLDER"
    return ""
