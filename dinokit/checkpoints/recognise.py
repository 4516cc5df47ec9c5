"""Whose weights are these? Official, Hugging Face transformers' or timm's, by their keys and the files beside them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dinokit.checkpoints import convnets, huggingface, huggingface_json, official, timm
from dinokit.core.errors import UserError, reason
from dinokit.core.log import info
from dinokit.core.pixels import Pixels
from dinokit.models.architecture import Architecture

Files = Mapping[str, Mapping[str, Any]]
READ = (huggingface_json.CONFIG, huggingface_json.PREPROCESSOR)


def recognise(
    checkpoint: Mapping[str, object], files: Files, *, file: str
) -> tuple[Architecture, dict[str, Tensor], Pixels]:
    """Return the architecture, the weights under our names, and what images they want.

    Keys of a classification head are left out, in one line that names them.

    Args:
        checkpoint: what the weights file holds; wrappers and prefixes are taken off, see `official.parts`.
        files: content of the JSON files beside it, see `beside`.
        file: for the messages.
    Raises:
        UserError: if nobody's weights are in it, or some of them do not fit; the message lists the keys.
    """
    state = official.parts(checkpoint).get("backbone", {})
    about = files.get(huggingface_json.CONFIG, {})
    config: Architecture
    if huggingface.matches(state):
        config, ours, left = huggingface.recognise(state, about, file=file)
        pixels = huggingface_json.pixels(config, files.get(huggingface_json.PREPROCESSOR, {}))
    elif timm.matches(state) or ("architecture" in about and timm.QKV in state):
        (config, ours), left = timm.recognise(state, about, file=file), []
        pixels = timm.pixels(config, about)
    elif convnets.matches(state):
        config, ours, left = convnets.recognise(state)
        pixels = convnets.pixels(config)
    else:
        config, ours = official.recognise(checkpoint)
        return config, ours, official.pixels(config)
    if left:
        info(f"left out of {file}: {official.listed(sorted(left))}")
    return config, ours, pixels


def beside(file: Path) -> Files:
    """Read the JSON files that describe a weights file and stand beside it.

    Raises:
        UserError: if one is damaged.
    """
    found = {}
    for name in READ:
        path = file.parent / name
        if not path.is_file():
            continue
        try:
            found[name] = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read {path}: {reason(error)}") from error
        except ValueError as error:
            raise UserError(f"{path} is no JSON: {error}") from error
        if not isinstance(found[name], Mapping):
            raise UserError(f"{path} holds a {type(found[name]).__name__}; expected a table of settings")
    return found
