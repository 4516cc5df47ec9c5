"""Whose weights are these? Official, Hugging Face transformers' or timm's, by their keys and the files beside them."""

import re
from collections.abc import Mapping

from torch import Tensor

from dinokit.checkpoints.layouts import huggingface, huggingface_json, official, timm, timm_json
from dinokit.checkpoints.layouts.infer import listed
from dinokit.checkpoints.layouts.json_files import CONFIG, PREPROCESSOR, Files
from dinokit.core.log import info
from dinokit.images.normalisation import Pixels
from dinokit.models.architecture import Architecture

# torchvision's and timm's classifiers; those of transformers stand beside the backbone and not in it
CLASSIFIER = re.compile(r"(fc|head|head\.fc)\.(weight|bias)")


def recognise(
    checkpoint: Mapping[str, object], files: Files, *, file: str
) -> tuple[Architecture, dict[str, Tensor], Pixels]:
    """Return the architecture, the weights under our names, and what images they want.

    Keys of a classification head are left out, in one line that names them.

    Args:
        checkpoint: what the weights file holds; wrappers and prefixes are taken off, see `official.parts`.
        files: content of the JSON files beside it, see `json_files.beside`.
        file: for the messages.
    Raises:
        UserError: if nobody's weights are in it, or some of them do not fit; the message lists the keys.
    """
    state = official.part(checkpoint, "backbone")
    left = [key for key in state if CLASSIFIER.fullmatch(key)]
    state = {key: value for key, value in state.items() if key not in left}
    about = files.get(CONFIG, {})
    if huggingface.matches(state):
        config, ours, heads = huggingface.recognise(state, about, file=file)
        pixels = huggingface_json.pixels(config, files.get(PREPROCESSOR, {}))
        left += heads
    elif timm.matches(state, about):
        config, ours = timm.recognise(state, about, file=file)
        pixels = timm_json.pixels(config, about)
    else:
        config, ours = official.recognise(state, heads=huggingface_json.heads(about))
        pixels = official.pixels(config)
    if left:
        info(f"left out of {file}: {listed(sorted(left))}")
    return config, ours, pixels
