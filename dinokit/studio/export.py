"""The studio as one file: chosen images, models and checkpoints, opened from a disk with the network off.

The modules of the page are joined into one, each after those it imports, and a module that reads what is in the page
stands for the one that asks a server. The policy in the page lets run what was written here, by digest, and nothing
load. Features are the octets that a server would send, as base64.
"""

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from dinokit.core.files import check_writable, write_atomic
from dinokit.core.messages import BadImage, UserError, progress, unknown_name, warn
from dinokit.core.order import evenly
from dinokit.looks import attention
from dinokit.looks.field import TooLong
from dinokit.studio.images import Images, Unknown
from dinokit.studio.start import Opened
from dinokit.studio.store import HEAD

PAGE = Path(__file__).parent / "page"
FIRST, STYLE = "studio.js", "studio.css"
INSTEAD = {"source.js": "offline.js"}  # in a page of its own
IMPORT = r'^import \{[^}\n]*\} from "\./([a-z0-9-]+\.js)";$'
EXPORT = r"^export (?=async function|function|class|const|let)"
KINDS = ("thumbs", "pictures", "features", "attention")
ENDINGS = (".html", ".htm")
SHOWN = 8  # images, where none are named
LARGEST = 50_000_000  # bytes: a browser still opens it at once, and a mail server perhaps takes it


def export(
    opened: Opened, out: Path, *, images: Sequence[str] = (), steps: Sequence[int] = (), page: Path = PAGE
) -> int:
    """Write the page; return its bytes.

    Args:
        images: indices of the source or keys; none: eight, evenly spaced.
        steps: of the runs' checkpoints; none: the last alone.

    Raises:
        UserError: if an image or a step is not there, the page would be above 50 MB, or `out` is no place for it.
    """
    if out.suffix.lower() not in ENDINGS or out.is_dir():
        raise UserError(f"expected --export to be a page such as {out.with_suffix('.html')}, got {out}")
    check_writable(out.parent, option="--export")
    ids = chosen(opened.seeing.images, images)
    models = _models(opened.about()["models"], steps)
    shown, told = list[dict[str, str]](), {kind: dict[str, str]() for kind in KINDS}
    written = 0
    for number, id in enumerate(progress(ids, len(ids)), 1):
        name, place = opened.seeing.images.about(id)["name"], str(len(shown))  # in the page they count from 0
        try:
            found = list(_of_image(opened, id, models, place=place))
        except (BadImage, TooLong) as error:
            if images and isinstance(error, TooLong):
                raise
            warn(f"{name} is passed over: {error}")
            continue
        except Unknown as error:  # a checkpoint that was there at first
            raise UserError(str(error)) from error
        shown.append({"id": place, "name": name})
        for kind, called, value in found:
            told[kind][called] = value
            written += len(value)
        if written > LARGEST:
            guess = written * len(ids) / number / 1e6
            raise UserError(
                f"{out} would be {guess:.0f} MB, at most {LARGEST / 1e6:.0f} open well; take fewer --images, --steps "
                "or models, or a smaller --size"
            )
    if not shown:
        raise UserError(f"expected images that can be read, got none of {len(ids)}; name others by --images")
    about = opened.about() | {"models": models, "count": len(shown)}
    text = document({"about": about, "images": shown, **told}, page=page)
    with write_atomic(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return len(text.encode())


def chosen(images: Images, words: Sequence[str]) -> list[str]:
    """Return the ids of images by index, by key or by the last part of a key; UserError for a word that is none."""
    if not words:
        return [str(index) for index in evenly(SHOWN, len(images)).tolist()]
    numbers = [word for word in words if re.fullmatch("0|[1-9][0-9]{0,11}", word)]
    wrong = [word for word in numbers if int(word) >= len(images)]
    if wrong:
        raise UserError(f"expected --images of 0 to {len(images) - 1}, got {wrong[0]}")
    places: dict[str, int] = {}
    if len(numbers) < len(words):
        wanted = set(words)
        for index in range(len(images)):
            key = images.source.key(index)
            for name in {key, key.rpartition("/")[2]} & wanted:
                places.setdefault(name, index)
    missing = [word for word in words if word not in numbers and word not in places]
    if missing:
        some = (images.source.key(index) for index in range(min(len(images), 1000)))
        raise unknown_name("image", missing[0], some)
    return list(dict.fromkeys(word if word in numbers else str(places[word]) for word in words))


def document(told: Mapping[str, Any], *, page: Path = PAGE) -> str:
    """Put the page, its modules and what it shows into one text."""
    style, code = (page / STYLE).read_text(encoding="utf-8"), joined(page)
    policy = (
        f"default-src 'none'; script-src '{_digest(code)}' 'wasm-unsafe-eval'; style-src '{_digest(style)}'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    data = json.dumps(told, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    coded = '<meta charset="utf-8">'
    changes = {
        coded: f'{coded}\n<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f'<link rel="stylesheet" href="page/{STYLE}">': f"<style>{style}</style>",
        f'<script type="module" src="page/{FIRST}"></script>': (
            f'<script type="application/json" id="exported">{data}</script>\n<script type="module">{code}</script>'
        ),
    }
    text = (page / "index.html").read_text(encoding="utf-8")
    for old in changes:
        assert text.count(old) == 1, f"index.html has {old} {text.count(old)} times"
    return re.sub("|".join(map(re.escape, changes)), lambda found: changes[found[0]], text)


def joined(page: Path = PAGE) -> str:
    """Return all modules as one: each after those that it imports; no two have a name of the top level in common."""
    done: dict[str, str] = {}

    def add(name: str, within: tuple[str, ...]) -> None:
        assert name not in within, f"modules import each other: {' '.join(within)}"
        if name in done:
            return
        text = (page / name).read_text(encoding="utf-8")
        for imported in re.findall(IMPORT, text, re.MULTILINE):
            add(INSTEAD.get(imported, imported), (*within, name))
        done[name] = re.sub(f"{IMPORT}\n|{EXPORT}", "", text, flags=re.MULTILINE)

    add(FIRST, ())
    code = "\n".join(done.values())
    assert not re.search(r"^\s*(import|export)\b|</script|<!--", code, re.MULTILINE), "code that cannot be joined"
    return code


def _models(models: Sequence[Mapping[str, Any]], steps: Sequence[int]) -> list[dict[str, Any]]:
    """Say of every run only the checkpoints that are shown."""
    there = {step for model in models for step in model["steps"] or ()}
    missing = [step for step in steps if step not in there]
    if missing:
        known = ", ".join(map(str, sorted(there))) or "none, as no model is a run"
        raise UserError(f"expected --steps of {known}, got {missing[0]}")
    found = []
    for model in models:
        shown = None if model["steps"] is None else [step for step in model["steps"] if step in steps]
        found.append({**model, "steps": shown if shown or model["steps"] is None else [model["steps"][-1]]})
    return found


def _of_image(
    opened: Opened, id: str, models: Sequence[Mapping[str, Any]], *, place: str
) -> Iterator[tuple[str, str, str]]:
    """Yield what is shown of an image: of which kind, under which name, as text."""
    seeing = opened.seeing
    yield "thumbs", place, f"data:image/jpeg;base64,{_text(seeing.images.thumb(id))}"
    for model in models:
        name, patch = model["id"], model["patch"]
        drawn = seeing.images.picture(id, patch_size=patch, size=seeing.size)
        yield "pictures", f"{name}/{place}", f"data:image/webp;base64,{_text(drawn)}"
        for step in model["steps"] or [None]:
            called = f"{name}/{place}/{'' if step is None else step}"
            octets = seeing.features(name, step, id).result()
            yield "features", called, _text(octets)
            rows, columns, _ = HEAD.unpack_from(octets)
            if model["blocks"] is not None and rows * columns <= attention.MOST:
                yield "attention", called, _text(seeing.attention(name, step, id, None).result())


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _digest(text: str) -> str:
    return f"sha256-{_text(sha256(text.encode()).digest())}"
