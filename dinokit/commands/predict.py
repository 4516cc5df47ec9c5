"""`dinokit predict`: write masks, boxes or classes, by a head that evaluate saved or from a few masks or boxes"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dinokit import config as configuration
from dinokit.annotations.boxes import box_splits
from dinokit.checkpoints.load import called, check_written, load
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core import device as devices
from dinokit.core.files import check_writable, only_owner
from dinokit.core.messages import UserError, info, unknown_name
from dinokit.dense.attentive import AttentiveHead
from dinokit.dense.heads import About, Written, apply, check_model, load_head
from dinokit.dense.linear import LinearHead, classify
from dinokit.evaluation import detection, foreground
from dinokit.models.features import Backbone
from dinokit.sources.source import open_source
from dinokit.visuals import detection as detectors

OPTIONS = ("--data", "--out", "--head", "--train-masks", "--train-on", "--model", "--heads", "--split", "--device")
TRAINING = "training"  # folder of what a detector learns from and of how good it is


def predict(
    *,
    data: str,
    out: Path,
    head: Path | None = None,
    train_masks: str | None = None,
    train_on: str | None = None,
    model: str | None = None,
    heads: int | None = None,
    split: str | None = None,
    device: str = "auto",
    settings: Settings = NO_SETTINGS,
) -> Written:
    """Apply a head to every image of a source; OUT receives PNGs and a legend. The same command again goes on.

    segmentation: masks/ with a palette, overlays/. depth: depth/ (16 bits), colours/. foreground: probabilities/
    (white = 1), overlays/. linear, attentive: classes.csv, a line per image with its five likeliest classes. detection:
    detections.json as COCO writes annotations, pictures/ with boxes.

    Args:
        data: a folder of images, or anything else that `pretrain` takes.
        out: the folder to write.
        head: the folder of a head: SAVE/head of `dinokit evaluate TASK --save SAVE`.
        train_masks: instead of a head, learn what is foreground from a few images with masks: a folder with images/ and
            masks/, or of PNGs with an alpha channel; takes the settings of `dinokit evaluate foreground`, which
            `dinokit predict --train-masks --help` lists.
        train_on: instead of a head, learn to find what is in the boxes of a few images and, by the recipe few, of
            pieces of them: labels of YOLO, a COCO JSON, Pascal VOC, boxes.csv; takes the settings of `dinokit evaluate
            detection`, which `dinokit predict --train-on --help` lists. The average precision is that of a split val or
            test, if there is one. An interrupted training goes on; OUT/head is what was learnt.
        model: whose patches the head reads; that of the training if not given. Needed without --head.
        heads: of attention, for weights that do not say it, such as a bare file of a width that no release has.
        split: one split of the source; train, or everything, if not given.
        device: auto, cpu, cuda or mps.
    """
    ways = {"--head": head, "--train-masks": train_masks, "--train-on": train_on}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        wanted = "expected one of --head FOLDER, --train-masks FOLDER and --train-on FOLDER, got "
        raise UserError(wanted + (" and ".join(given) or "neither"))
    if head is not None and settings:
        raise unknown_name("option", f"--{next(iter(settings))}", OPTIONS)
    if head is None and model is None:
        raise UserError(f"{given[0]} needs --model: whose patches are to be told apart")
    if train_on is not None:
        box_splits(str(train_on))  # a mistake is said before the work
    data, out, where = str(data), Path(out), devices.choose(device)
    if head is not None:
        learnt, about = load_head(head)
        name = check_written(model or about.model)
        backbone = load(name, heads=heads).to(where)
        check_model(about, backbone, model=name)
    else:
        config = configuration.override(_usual(given[0], str(train_masks or train_on)), settings)
        name = check_written(model)
        backbone = load(name, heads=heads).to(where)
        backbone.name = called(name)
        open_source(data, split=split, channels=backbone.channels)  # a mistake is said before the learning
        check_writable(out)
        learnt, about = (_from_masks if train_on is None else _from_boxes)(backbone, config, out)
    if isinstance(learnt, LinearHead | AttentiveHead):
        found = classify(backbone, learnt.to(where), about, data, out, split=split)
    else:
        found = apply(backbone, learnt.to(where), about, data, out, split=split, keep_head=head is None)
    info(f"{found.images:,} images written · {found.there:,} were there · {len(found.bad)} unreadable · {out}")
    return found


def _from_masks(backbone: Backbone, config: Any, _: Path) -> tuple[nn.Module, About]:
    learnt, about, result = foreground.learn(backbone, config)
    info(f"average precision {result['AP']:.1f} % on images left out, C {result['C']:g}")
    return learnt, about


def _from_boxes(backbone: Backbone, config: Any, out: Path) -> tuple[nn.Module, About]:
    with only_owner(out / TRAINING):
        learnt, about, (result, _) = detection.learn(backbone, config, out / TRAINING, alone=True)
        for page in detectors.write_pages(out / TRAINING):
            info(f"page {page}")
    for line in _how_good(result, about.details["measured"]):
        info(line)
    return learnt, about


def _how_good(result: Mapping[str, float], own: Mapping[str, Any]) -> Iterator[str]:
    """Say what was found on the images that were measured on, and which boxes are shown by that."""
    count = f"{result['images']:,.0f} images"
    if not own["held_out"]:
        those = f"the {count}" if own["shared"] == result["images"] else f"{count}, {own['shared']:,} of which"
        yield f"AP {result['AP']:.1f} % on {those} it has learnt, by heart: only a split val says how good it is"
        return
    yield f"AP {result['AP']:.1f} %, AP50 {result['AP50']:.1f} % on {count} of {own['split']}"
    why = "by which most is right there" if result["AP50"] > 0 else "for want of a right one there the best"
    yield f"pictures show boxes with a score of at least {own['least']:.2f}, {why}"


def explained(options: Sequence[str]) -> tuple[str, Any] | None:
    """Return the settings of what is learnt from a few masks or boxes, if help is about one of the two."""
    for given, task in (("--train-on", "detection"), ("--train-masks", "foreground")):
        if given in options:
            return task, _usual(given, "DATA")
    return None


def _usual(given: str, data: str) -> foreground.Config | detection.Config:
    """Return the settings with which a few boxes or masks are learnt from, if nothing else is said."""
    return detection.Config(data=data, recipe="few") if given == "--train-on" else foreground.Config(data=data)
