"""Open a linear classifier: a released head and its backbone, or a model that holds both.

Heads are the linear layers of DINO, DINOv2 and DINOv3, flat or wrapped, or those inside files of transformers
(ViT, Dinov2 and Dinov2WithRegisters ForImageClassification), torchvision and timm. No file says what its head sees; its
width does, in vectors of the backbone's width:

| vectors | sees                                             | released for                                       |
|---------|--------------------------------------------------|----------------------------------------------------|
| 1       | CLS                                              | DINO's ResNet-50, ViTForImageClassification        |
| 2       | CLS, mean patch                                  | DINOv2 linear, DINOv3's ViT-7B, Dinov2For...       |
| 2       | the same, interleaved channel by channel         | DINO's ViT-B: any ViT with DINO's architecture     |
| 4       | CLS of the last four blocks, the earliest first  | DINO's ViT-S                                       |
| 5       | the same, mean patch of the last                 | DINOv2 linear4                                     |

A convolutional network has no blocks of one width: 1 and 2 only.

The folder of a head that `dinokit evaluate linear --save` wrote says what it sees and whose output that is, in
head.json: it opens with that model and refuses any other.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from dinokit.checkpoints.layouts.recognise import check_pooling, parts
from dinokit.checkpoints.load import beside, is_finite, load, opened, read, weights_file
from dinokit.core.files import digest_of_model, read_json
from dinokit.core.messages import UserError, listed
from dinokit.models.classifier import Classifier, Reading
from dinokit.models.features import Backbone, Built

ABOUT, KEPT = "head.json", "head.safetensors"  # of a head's folder
# before "weight" and "bias"
NAMES = ("", "linear.", "linear_head.", "head.", "head.fc.", "classifier.", "classifier.1.", "fc.")


def load_classifier(
    model: str | Path | Backbone, head: str | Path | None = None, *, heads: int | None = None
) -> Classifier:
    """Load a backbone and a linear head on it, frozen and in evaluation mode; classifier(images) -> logits.

    What the head sees is read off its width and the architecture of the backbone, see above.

    Args:
        model: whatever `load` takes, or a loaded backbone.
        head: its weights, .pth or .safetensors, or the folder SAVE/head of `dinokit evaluate linear --save SAVE`; None:
            those in the file of the model.
        heads: of attention, see `load`.
    Raises:
        UserError: if there is no head, more than one, or one that does not fit the backbone; or as `load` does.
    """
    if head is not None:
        backbone = model if isinstance(model, Backbone) else load(model, heads=heads)
        if os.path.isfile(os.path.join(os.path.expanduser(head), ABOUT)):
            return _kept(backbone, Path(os.path.expanduser(head)))
        file = weights_file(head)
        return _classifier(backbone, *_found(_flat(read(file)[0]), file), file=file)
    if isinstance(model, Backbone):
        raise UserError("a loaded backbone has no head; give the file of one, or the path of a model that has one")
    file = weights_file(model)
    state, about = read(file)
    state = _flat(state)
    weight, bias = _found(state, file)
    check_pooling(state, beside(file), file=str(file))
    rest = {name: value for name, value in state.items() if value is not weight and value is not bias}
    return _classifier(opened(file, rest, about, name=str(model), heads=heads), weight, bias, file=file)


def _flat(checkpoint: Mapping[str, object]) -> dict[str, Tensor]:
    """Take off wrappers and prefixes; a head keeps its name before its weights."""
    found = parts(checkpoint)
    backbone = found.pop("backbone", {})
    return backbone | {f"{part}.{name}": value for part, state in found.items() for name, value in state.items()}


def _found(state: Mapping[str, Tensor], file: Path) -> tuple[Tensor, Tensor]:
    present = [name for name in NAMES if f"{name}weight" in state]
    if len(present) != 1:
        several = ", ".join(f"{name}weight" for name in present) or f"only {listed(sorted(state))}"
        raise UserError(f"expected one linear head in {file}, got {several}; give the file of one as head=")
    weight = state[f"{present[0]}weight"]
    bias = state.get(f"{present[0]}bias")
    if weight.ndim != 2 or bias is None or bias.shape != weight.shape[:1]:
        got = f"{tuple(weight.shape)} and {'none' if bias is None else tuple(bias.shape)}"
        raise UserError(f"expected a weight [class, width] and a bias [class] in {file}, got {got}")
    return weight, bias


def _kept(backbone: Backbone, folder: Path) -> Classifier:
    """Open a head that says itself what it sees."""
    about, file = read_json(folder / ABOUT), weights_file(folder / KEPT)
    config = about.get("config") if isinstance(about, dict) else None
    if not isinstance(config, dict) or not {"blocks", "mean_patch"} <= config.keys():
        raise UserError(f"{folder} holds no classifier of whole images; {ABOUT} says {about.get('task')}")
    if about.get("digest") != digest_of_model(backbone):
        raise UserError(
            f"the head in {folder} was trained on {about.get('model')}, whose weights are not those of "
            f"{backbone.name or 'the model'}; give that model"
        )
    reading = Reading(blocks=int(config["blocks"]), mean_patch=bool(config["mean_patch"]))
    weight, bias = _found(_flat(read(file)[0]), file)
    return _classifier(backbone, weight, bias, file=file, reading=reading)


def _classifier(
    backbone: Backbone, weight: Tensor, bias: Tensor, *, file: Path, reading: Reading | None = None
) -> Classifier:
    if not (is_finite(weight) and is_finite(bias)):
        raise UserError(f"the head in {file} holds NaN or infinite numbers; train it again")
    classes, width = weight.shape
    known_readings = _readings(backbone) if reading is None else [reading]
    readings = {each.vectors * backbone.dim: each for each in known_readings}
    if width not in readings:
        known = ", ".join(map(str, readings))
        raise UserError(
            f"expected a head of width {known} for a backbone of width {backbone.dim}, got {width} in {file}; "
            "it belongs to another model"
        )
    linear = nn.Linear(width, classes)
    linear.load_state_dict({"weight": weight, "bias": bias})
    like = next(backbone.parameters(), weight)
    linear.to(device=like.device, dtype=like.dtype)
    return Classifier(backbone, linear, readings[width]).eval().requires_grad_(False)


def _readings(backbone: Backbone) -> list[Reading]:
    """List what heads have been trained on, for this kind of backbone."""
    if not isinstance(backbone, Built) or backbone.config.kind != "vit":
        return [Reading(), Reading(mean_patch=True)]
    interleaved = backbone.config.family == "dino"
    found = [Reading(), Reading(mean_patch=True, interleaved=interleaved)]
    if backbone.config.depth >= 4:
        found += [Reading(blocks=4), Reading(blocks=4, mean_patch=True)]
    return found
