"""The HTML page as a thing of its own: one file, no request to anywhere, one script, which saves figures.

A content security policy in the page itself forbids all loading and every script but that one (save.js, named by its
digest), so that a report can be opened from a mail or a cluster without a doubt; without scripts it shows the same.
Every text goes through `text`, which escapes it; images are small `data:` URIs. What has `data-save`, its name, can be
saved as SVG and as PNG.
"""

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

LOSSLESS = 64  # pixels; up to this side a picture stays PNG, shown with hard pixel edges
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    link: str  # its name in the navigation, one or two words
    heading: str
    body: str  # HTML; an empty part is left out

    @property
    def anchor(self) -> str:
        return self.link.lower().replace(" ", "-")


def document(*, title: str, header: str, sections: Sequence[Section], numbers: Mapping[str, Any] | None = None) -> str:
    """Assemble the page.

    Args:
        header: HTML.
        numbers: plain values that the page holds as JSON, for other programs; None: none.
    """
    present = [section for section in sections if section.body]
    links = "".join(f'<a href="#{one.anchor}">{text(one.link)}</a>' for one in present)
    bodies = "".join(
        f'<section id="{one.anchor}" aria-labelledby="{one.anchor}-h"><h2 id="{one.anchor}-h">{text(one.heading)}</h2>'
        f"{one.body}</section>"
        for one in present
    )
    own = files("dinokit.visuals")
    style, script = ((own / name).read_text(encoding="utf-8") for name in ("report.css", "save.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    island = "" if numbers is None else f'<script type="application/json" id="numbers">{_json(numbers)}</script>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY.format(digest=digest)}">'
        f'<meta name="color-scheme" content="light dark"><title>{text(title)}</title><style>\n{style}</style></head>\n'
        f'<body><header>{header}</header><nav aria-label="Sections">{links}</nav><main>{bodies}</main>\n{island}'
        f"<script>{script}</script></body></html>\n"
    )


def _json(value: Mapping[str, Any]) -> str:
    """Write JSON that no text inside can end; numbers that are not finite, which JSON lacks, as null."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    return json.dumps(finite, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def text(value: object) -> str:
    """Escape anything that did not come from this package."""
    return escape(str(value))


def paragraph(value: object, *, kind: str = "") -> str:
    """Return an escaped paragraph."""
    return f'<p class="{kind}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>"


def facts(rows: Iterable[tuple[str, object]], *, kind: str = "facts") -> str:
    """Return pairs of name and value as a list; pairs without a value are left out."""
    present = [(name, value) for name, value in rows if value not in (None, "")]
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in present)
    return f'<dl class="{kind}">{items}</dl>' if items else ""


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, kind: str = "") -> str:
    """Return a table; the first column of each row names it."""
    names = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = ""
    for first, *rest in rows:
        body += f'<tr><th scope="row">{text(first)}</th>{"".join(f"<td>{text(value)}</td>" for value in rest)}</tr>'
    inner = f"<thead><tr>{names}</tr></thead><tbody>{body}</tbody>"
    named = text(", ".join(filter(None, head)))
    # what scrolls is reached by the keyboard
    frame = f'<div class="scroll" tabindex="0" role="group" aria-label="{named}">'
    return f'{frame}<table class="{kind}">{inner}</table></div>'


def details(summary: str, body: str) -> str:
    """Return a part that opens on a click; `body` is HTML."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def picture(source: str, *, alt: str, sharp: bool = False) -> str:
    """Return an <img>; `sharp` shows its pixels as squares when it is enlarged."""
    return f'<img src="{text(source)}" alt="{text(alt)}" title="{text(alt)}"' + (' class="sharp">' if sharp else ">")


def data_uri(pixels: UInt8[Tensor, "height width channel"], *, side: int = 160) -> str:
    """Encode a picture, shrunk so that its long side is at most `side` pixels.

    Gray stays gray; of any other number of channels the first three are shown, of two the first. Small pictures are
    PNG; larger ones PNG or JPEG, whichever is smaller: photos would otherwise fill the page.
    """
    array = pixels[:, :, :3].numpy() if pixels.shape[2] >= 3 else pixels[:, :, 0].numpy()
    image = Image.fromarray(array)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    large = max(image.size) > LOSSLESS
    # a large picture is most often a photo, whose PNG costs 10 times as long to optimise and loses to JPEG
    kinds: dict[str, dict[str, int]] = {"png": {"optimize": not large}}
    if large:
        kinds["jpeg"] = {"quality": 86}
    encoded = {}
    for kind, options in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        encoded[kind] = buffer.getvalue()
    kind = min(encoded, key=lambda kind: len(encoded[kind]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode('ascii')}"
