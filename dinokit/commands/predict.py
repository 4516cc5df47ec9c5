"""`dinokit predict`: write masks or classes, by a head that evaluate saved or from a few masks"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinokit import config as configuration
from dinokit.checkpoints.load import called, check_written, load
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core import device as devices
from dinokit.core.files import check_writable
from dinokit.core.messages import UserError, info, unknown_name
from dinokit.dense.attentive import AttentiveHead
from dinokit.dense.heads import Written, apply, check_model, load_head
from dinokit.dense.linear import LinearHead, classify
from dinokit.evaluation import foreground
from dinokit.sources.source import open_source

OPTIONS = ("--data", "--out", "--head", "--train-masks", "--model", "--heads", "--split", "--device")


def predict(
    *,
    data: str,
    out: Path,
    head: Path | None = None,
    train_masks: str | None = None,
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
            masks/, or of PNGs with an alpha channel; takes the settings of `dinokit evaluate foreground`.
        model: whose patches the head reads; that of the training if not given. Needed with --train-masks.
        heads: of attention, for weights that do not say it, such as a bare file of a width that no release has.
        split: one split of the source; train, or everything, if not given.
        device: auto, cpu, cuda or mps.
    """
    if (head is None) == (train_masks is None):
        raise UserError("expected either --head FOLDER or --train-masks FOLDER, got " + ("both" if head else "neither"))
    if head is not None and settings:
        raise unknown_name("option", f"--{next(iter(settings))}", OPTIONS)
    if head is None and model is None:
        raise UserError("--train-masks needs --model: whose patches are to be told apart")
    data, out, where = str(data), Path(out), devices.choose(device)
    if head is not None:
        learnt, about = load_head(head)
        name = check_written(model or about.model)
        backbone = load(name, heads=heads).to(where)
        check_model(about, backbone, model=name)
    else:
        config = configuration.override(foreground.Config(data=str(train_masks)), settings)
        name = check_written(model)
        backbone = load(name, heads=heads).to(where)
        backbone.name = called(name)
        open_source(data, split=split, channels=backbone.channels)  # a mistake is said before the learning
        check_writable(out)
        learnt, about, result = foreground.learn(backbone, config)
        info(f"average precision {result['AP']:.1f} % on images left out, C {result['C']:g}")
    if isinstance(learnt, LinearHead | AttentiveHead):
        found = classify(backbone, learnt.to(where), about, data, out, split=split)
    else:
        found = apply(backbone, learnt.to(where), about, data, out, split=split, keep_head=head is None)
    info(f"{found.images:,} images written · {found.there:,} were there · {len(found.bad)} unreadable · {out}")
    return found


def explained(_: Sequence[str]) -> tuple[str, Any]:
    """Return the settings that --train-masks takes."""
    return "foreground", foreground.Config(data="DATA")
