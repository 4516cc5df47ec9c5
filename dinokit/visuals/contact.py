"""Some images of a source on one sheet, as photographers look through a film: what is in it, before training."""

from PIL import Image, ImageDraw

from dinokit.core.messages import UserError
from dinokit.dense import draw
from dinokit.images import intensity
from dinokit.looks.sheet import latin
from dinokit.sources.base import Source, Unusable

SHOWN, COLUMNS, SIDE = 48, 12, 72  # images, of them in a row, and pixels of a tile
_GAP, _LINE = 6, 14  # pixels between tiles, and of a caption
_GONE = "lightgray"


def contact_sheet(source: Source, *, columns: int = COLUMNS, side: int = SIDE, workers: int = 0) -> Image.Image:
    """Draw all images of a source, whole and small, with their classes or names below.

    What cannot be read is a grey tile.

    Args:
        columns: tiles in a row, at most.
        side: pixels of a tile.
        workers: threads that read; 0: the caller's own.

    Raises:
        UserError: if there is no image.
    """
    if not len(source):
        raise UserError(f"expected images in {source.name} to show, got none; choose some")
    columns = min(columns, len(source))
    rows = -(-len(source) // columns)
    step, height = side + _GAP, side + _LINE + _GAP
    page = Image.new("RGB", (columns * step - _GAP, rows * height - _GAP), "white")
    pen = ImageDraw.Draw(page)
    reading = source.each(lambda index: source.read(index, min_side=side), range(len(source)), workers=workers)
    for index, found in reading:
        left, top = index % columns * step, index // columns * height
        if isinstance(found, Unusable):
            pen.rectangle((left, top, left + side - 1, top + side - 1), fill=_GONE)
        else:
            tile = _tile(found, side)
            page.paste(tile, (left + (side - tile.width) // 2, top + (side - tile.height) // 2))
        pen.text((left, top + side + 1), _fitting(_caption(source, index), pen, side), fill="black")
    return page


def _tile(image: intensity.Image, side: int) -> Image.Image:
    """Bring the long side to that of a tile; small pictures grow by whole pixels, so that one sees what there is."""
    picture = Image.fromarray(draw.rgb(image))
    longest = max(picture.size)
    grown = side // longest
    if grown > 1:
        return picture.resize((picture.width * grown, picture.height * grown), Image.Resampling.NEAREST)
    width, height = (max(each * side // longest, 1) for each in picture.size)
    return picture.resize((width, height))


def _caption(source: Source, index: int) -> str:
    label = -1 if source.labels is None else int(source.labels[index])
    name = source.key(index).rpartition("/")[2] if label < 0 else source.classes[label]
    return latin(name)


def _fitting(text: str, pen: ImageDraw.ImageDraw, width: int) -> str:
    """Cut what is wider than a tile."""
    while pen.textlength(text) > width:
        text = text[:-1]
    return text
