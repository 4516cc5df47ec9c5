"""Images and their maps on one sheet: a row per image, its picture first, then what every model shows of it."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from dinokit.looks.field import Field, Map

GAP, LINE = 8, 16  # pixels between pictures, and of a line of text


def sheet(fields: Sequence[Field], maps: Mapping[str, Sequence[Sequence[Map]]]) -> Image.Image:
    """Put pictures and maps together; each patch of a map is as large as it was in the picture.

    Args:
        maps: name of a model, which stands above its columns -> maps of every image.
    """
    titles = [
        [each.name, *(_title(model, caption, maps) for model in maps for caption, _ in maps[model][number])]
        for number, each in enumerate(fields)
    ]
    rows = []
    for number, each in enumerate(fields):
        height, width, _ = each.picture.shape
        drawn = [Image.fromarray(each.picture)]
        drawn += [
            Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST)
            for model in maps
            for _, colours in maps[model][number]
        ]
        rows.append(drawn)
    widths = [sum(one.width + GAP for one in row) - GAP for row in rows]
    heights = [row[0].height + LINE + GAP for row in rows]
    page = Image.new("RGB", (max(widths), sum(heights) - GAP), "white")
    pen, top = ImageDraw.Draw(page), 0
    for row, words, height in zip(rows, titles, heights, strict=True):
        left = 0
        for one, word in zip(row, words, strict=True):
            short = word if pen.textlength(_latin(word)) <= one.width else "..." + word[-max(one.width // 7 - 3, 1) :]
            pen.text((left, top + 2), _latin(short), fill="black")
            page.paste(one, (left, top + LINE))
            left += one.width + GAP
        top += height
    return page


def _title(model: str, caption: str, maps: Mapping[str, object]) -> str:
    """Say whose map it is, where there are several models."""
    return " · ".join(part for part in (model if len(maps) > 1 or not caption else "", caption) if part)


def _latin(text: str) -> str:
    """Return what the built-in font can write."""
    return text.encode("latin-1", "replace").decode("latin-1")
