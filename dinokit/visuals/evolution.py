"""What the patches of a few pictures looked like to every checkpoint: their components as colours, cosines with one.

The colours of all checkpoints agree (looks/evolution.py); the patch that is marked is chosen by the last one, and its
cosines are coloured from the least to the largest of all checkpoints, so that a map that grows bright has lost what is
local. Source: the figures of Gram anchoring in DINOv3 (arXiv:2508.10104).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from dinokit.checkpoints.load import load
from dinokit.core import device as devices
from dinokit.core.messages import UserError
from dinokit.features.embedding import unit
from dinokit.looks import similarity
from dinokit.looks.evolution import Colours, agreeing
from dinokit.looks.field import Field, field
from dinokit.visuals.gallery import Pictures, photo
from dinokit.visuals.page import data_uri, details, paragraph, picture, text
from dinokit.visuals.plot import number

GRID = 12  # patches; a smaller map shows too little and is computed from an enlarged picture
OPEN = 4  # pictures that are shown at once; the others are folded away
EXPLAINED = (
    "Every square is one of {patches} patches. Upper row: patches of one colour look alike to the model; look for "
    "parts (an edge, a sleeve, an eye, the background) that keep their colour from picture to picture. Each checkpoint "
    "has its own three main directions, turned so that its colours come as near as they can to those of the last one. "
    "Lower row: the cosine of every patch with the one that is marked, from dark, the least of all checkpoints, to "
    "yellow; which cosines these are stands below the marked picture. A map that lights up in places that have nothing "
    "to do with the mark has lost what is local."
)


@dataclass(frozen=True)
class Seen:
    """What a checkpoint sees in every picture."""

    step: int
    colours: Sequence[Colours]
    cosines: Sequence[Float64[Tensor, "rows columns"]]  # of every patch with the one that is marked


def evolve(checkpoints: Mapping[int, Path], pictures: Pictures) -> tuple[list[Seen], list[tuple[int, int]], list[str]]:
    """Let checkpoints look at the pictures; return what they see, the marked patches, and what had to be left out.

    Args:
        checkpoints: by step, ascending.

    Raises:
        UserError: if none of them can be used.
    """
    found, left_out, paint, marks = list[Seen](), list[str](), None, list[tuple[int, int]]()
    for step in reversed(list(checkpoints)):  # the last one says what the colours mean
        try:
            fields = fields_of(checkpoints[step], pictures)
        except UserError as error:
            left_out.append(f"Step {number(step)} is left out: {error}.")
            continue
        if paint is None:
            paint, marks = agreeing(fields), [marked(each) for each in fields]
        cosines = [similarity.cosines(each, mark, each) for each, mark in zip(fields, marks, strict=True)]
        found.append(Seen(step, paint(fields), cosines))
    if not found:
        raise UserError(left_out[-1].rstrip("."))
    return found[::-1], marks, left_out[::-1]


def fields_of(folder: Path, pictures: Pictures) -> list[Field]:
    """Compute the features of all patches of all pictures.

    Raises:
        UserError: if the weights cannot be loaded, or give no numbers.
    """
    backbone = load(folder).to(devices.choose("auto"))
    side = map_side(pictures.side, pictures.patch_size)
    shown = pictures.shown
    fields = [field(backbone, image, name=key, size=side) for image, key in zip(shown.pixels, shown.keys, strict=True)]
    if not all(bool(each.patches.isfinite().all()) for each in fields):
        raise UserError("its features are not finite")
    return fields


def map_side(side: int, patch_size: int) -> int:
    """Return the picture side for maps: the model's own, doubled (twice at most) until a map has `GRID` rows."""
    factor = 1
    while side * factor // patch_size < GRID and factor < 4:
        factor *= 2
    return side * factor


def marked(seen: Field) -> tuple[int, int]:
    """Return row and column of the patch of the middle that is the least like the borders: most often of the object."""
    rows, columns, _ = seen.patches.shape
    vectors = unit(seen.patches.flatten(0, 1)).reshape(seen.patches.shape)
    border = torch.ones(rows, columns, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    alike = vectors @ vectors[border].mean(dim=0)  # [rows, columns]
    middle = torch.zeros(rows, columns, dtype=torch.bool)
    middle[rows // 4 : -(-rows * 3 // 4), columns // 4 : -(-columns * 3 // 4)] = True
    row, column = divmod(int(alike.where(middle, torch.inf).argmin()), columns)
    return row, column


def strips(pictures: Pictures, seen: Sequence[Seen], marks: Sequence[tuple[int, int]], names: Mapping[int, str]) -> str:
    """Show every picture with its two rows of maps."""
    side = map_side(pictures.side, pictures.patch_size)
    note = EXPLAINED.format(patches=" by ".join(str(count) for count in seen[-1].colours[0].shape[:2]))
    if side != pictures.side:
        note += (
            f" The pictures of {pictures.side} px were enlarged to {side} px, because patches of {pictures.patch_size} "
            "px would otherwise be too few to show anything."
        )
    cards = [_strip(pictures, row, seen, marks[row], names) for row in range(len(pictures.shown.keys))]
    folded = f'<ul class="strips">{"".join(cards[OPEN:])}</ul>'
    more = details(f"{len(cards) - OPEN} more pictures", folded) if cards[OPEN:] else ""
    return paragraph(note) + f'<ul class="strips">{"".join(cards[:OPEN])}</ul>' + more


def _strip(pictures: Pictures, row: int, seen: Sequence[Seen], mark: tuple[int, int], names: Mapping[int, str]) -> str:
    key, name = pictures.shown.keys[row], pictures.shown.name(row)
    low, high = similarity.scale([each.cosines[row] for each in seen])
    ends = f"from {low:.2f} to {high:.2f}".replace("-", "\N{MINUS SIGN}")
    upper = [(photo(pictures.shown, row), name)]
    lower = [(picture(data_uri(_with_mark(pictures, row, seen, mark)), alt=f"{key}, a patch marked"), ends)]
    for each in seen:
        when = names[each.step]
        colours = torch.from_numpy(each.colours[row])
        upper.append((picture(data_uri(colours), alt=f"PCA of {key}, {when}", sharp=True), when))
        drawn = similarity.coloured(each.cosines[row], (low, high))
        drawn[mark] = similarity.MARK
        cosines = picture(data_uri(torch.from_numpy(drawn)), alt=f"Cosines in {key}, {when}, {ends}", sharp=True)
        lower.append((cosines, when))
    rows = "".join(
        f'<div class="row">{"".join(f"<figure>{i}<figcaption>{text(c)}</figcaption></figure>" for i, c in tiles)}</div>'
        for tiles in (upper, lower)
    )
    return f'<li class="strip" style="--n:{len(upper)}" data-save="{text(f"Patches of {name}")}">{rows}</li>'


def _with_mark(
    pictures: Pictures, row: int, seen: Sequence[Seen], mark: tuple[int, int]
) -> UInt8[Tensor, "height width channel"]:
    """Return a picture with a frame around a patch."""
    rows, columns, _ = seen[-1].colours[row].shape
    scale = -(-160 // rows)  # pixels of a patch, so that the frame is as wide for any picture
    small = pictures.shown.picture(row).permute(2, 0, 1)[None].float()
    large = torch.nn.functional.interpolate(small, size=(rows * scale, columns * scale), mode="bilinear")[0]
    large = large[:3] if large.shape[0] >= 3 else large[:1].expand(3, -1, -1).clone()
    (top, left), wide = (place * scale for place in mark), max(2, scale // 3)
    colour = torch.tensor(similarity.MARK, dtype=large.dtype)[:, None, None]
    inner = large[:, top : top + scale, left : left + scale].clone()
    outer = (
        slice(None),
        slice(max(top - wide, 0), top + scale + wide),
        slice(max(left - wide, 0), left + scale + wide),
    )
    large[outer] = colour
    large[:, top : top + scale, left : left + scale] = inner
    return large.round().to(torch.uint8).permute(1, 2, 0)
