"""A linear classifier of whole images on a frozen backbone: how it is kept, and the table of classes that it writes.

Its weights are those of any linear layer, so that `load_classifier` opens them, too; head.json says what it reads of
the backbone and the names of its classes.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.config import to_plain
from dinokit.core.files import check_writable, digest_of_model, digest_of_weights, only_owner, write_jsonl, write_text
from dinokit.core.numbers import at_least
from dinokit.dense.attentive import AttentiveHead, shown_by
from dinokit.dense.grid import Grid, Loss
from dinokit.dense.heads import About, Written, claim
from dinokit.features.extraction import extract
from dinokit.models.classifier import Reading
from dinokit.models.features import Backbone
from dinokit.sources.source import absolute, open_source

TASK, TABLE = "linear", "classes.csv"
DETAILS = ("classes",)  # of a head: their names, in the order of its outputs
SHOWN = 5  # classes of an image in the table
_ROWS = 1024  # images whose scores are held at once


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a head reads, and what it says."""

    width: int = at_least(1)  # numbers that it reads
    outputs: int = at_least(1)  # classes
    blocks: int = at_least(1)  # CLS of so many last blocks, the earliest first
    mean_patch: bool  # and the mean of the patches of the last
    loss: Loss  # that it was trained with. ce: one class of all; bce: each by itself


class LinearHead(nn.Module):
    """What is read of images -> scores of classes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.width, config.outputs)

    @staticmethod
    def of(grid: Grid, index: int) -> "LinearHead":
        """Take one head out of a grid."""
        (weight, bias), reading = grid.head(index), grid.members[index].reading
        config = Config(
            width=weight.shape[1],
            outputs=grid.classes,
            blocks=reading.blocks,
            mean_patch=reading.mean_patch,
            loss=grid.training.loss,
        )
        head = LinearHead(config)
        head.load_state_dict({"linear.weight": weight, "linear.bias": bias})
        return head.to(weight.device).eval().requires_grad_(False)

    @property
    def reading(self) -> Reading:
        """What it reads of a backbone."""
        return Reading(blocks=self.config.blocks, mean_patch=self.config.mean_patch)

    def forward(self, rows: Float[Tensor, "image width"]) -> Float[Tensor, "image class"]:
        """Score the classes: logits."""
        scores: Tensor = self.linear(rows)
        return scores

    @torch.no_grad()
    def logits(self, rows: Float[Tensor, "image width"]) -> Float[Tensor, "image class"]:
        """Score the classes of many images, on the CPU."""
        device = self.linear.weight.device
        return torch.cat([self(part.to(device)).cpu() for part in torch.split(rows, _ROWS)])

    def probabilities(self, rows: Float[Tensor, "image width"]) -> Float[Tensor, "image class"]:
        """Return the probability of every class, on the CPU; of a head of several classes each by itself."""
        found = self.logits(rows)
        return found.sigmoid() if self.config.loss == "bce" else found.softmax(dim=1)


HEADS = {"linear": (Config, LinearHead)}


def about_of(backbone: Backbone, head: LinearHead, classes: tuple[str, ...]) -> About:
    """Describe a head that was trained on a backbone."""
    return About(
        task=TASK,
        model=backbone.name,
        digest=digest_of_model(backbone),
        layers=head.config.blocks,
        details={"classes": list(classes)},
    )


def classify(
    backbone: Backbone,
    head: LinearHead | AttentiveHead,
    about: About,
    data: str,
    out: Path,
    *,
    split: str | None = None,
) -> Written:
    """Write OUT/classes.csv, a line per image: its key, its class and probability, and the next four with theirs.

    Both are on one device. A folder of another head is refused.
    """
    source = open_source(data, split=split, channels=backbone.channels, labels=False, white=backbone.pixels.white)
    stamp = {"data": absolute(data), "split": split, "weights": digest_of_weights(head), "head": to_plain(about)}
    names = [str(name) for name in about.details["classes"]]
    shown = min(SHOWN, len(names))
    check_writable(out)
    with only_owner(out):
        claim(out, stamp)
        transform = shown_by(backbone) if isinstance(head, AttentiveHead) else None
        found = extract(backbone, source, reading=head.reading, transform=transform)
        parts = torch.split(torch.arange(len(found.keys)), _ROWS)
        each = [head.probabilities(torch.from_numpy(found.take(part.numpy()))) for part in parts]
        best = torch.cat(each).sort(dim=1, descending=True, stable=True)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        more = [word for rank in range(2, shown + 1) for word in (f"class_{rank}", f"probability_{rank}")]
        table.writerow(["key", "class", "probability", *more])
        for key, places, values in zip(found.keys, best.indices.tolist(), best.values.tolist(), strict=True):
            pairs = [(names[place], f"{value:.6f}") for place, value in zip(places[:shown], values[:shown])]
            table.writerow([key, *(word for pair in pairs for word in pair)])
        write_text(out / TABLE, text.getvalue())
        if found.bad:
            write_jsonl(out / "bad_images.jsonl", [{"key": one.key, "reason": one.reason} for one in found.bad])
    return Written(len(found.keys), 0, found.bad)
