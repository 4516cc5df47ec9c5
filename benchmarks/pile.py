"""Heap up a pile of real pictures with a long tail and with copies, and hold classes out to measure on.

    python benchmarks/pile.py DATA OUT

DATA holds openclipart_96.zip, emoji_noto_twemoji_64.zip and fashion_mnist_10k_2k.npz. OUT receives

    pool/       drawings of openclipart, the head; photos of clothes, by Zipf's law, and emoji, the tail; altered copies
                of a few drawings, by a power law
    seeds/      a few pictures of every kind, the same number each, that are not in the pool
    held-out/   classes of which nothing is in pool or seeds: clothes, folders of openclipart, emoji in two styles
    truth.csv   of every file of the pool: what it is (kind), which picture (origin), how it was altered

The pool's drawings are as they come: 905 groups of equal bytes, 1,378 stars that differ by an angle or a number.
"""

import argparse
import csv
import io
import json
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from altered import ALTERED, LEAST, altered
from PIL import Image

SIDE = 64  # pixels of the longer side at most; the shorter has LEAST, or the picture is left out
COPIED, MOST, POWER = 250, 200, 0.8  # drawings with copies: the nth of them has MOST / n ** POWER
WORN, CLOTHES = (0, 1, 3, 5, 8), 200  # classes of clothes in the pool, and photos of the first; 1 / n of the nth
EMOJI = 400
HELD_CLIPART = ("animals", "food", "transportation", "recreation", "plants")
HELD_EMOJI = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities")
SEEDS = {"clipart": 60, "clothes": 50, "emoji": 50}
HELD_CLOTHES = 400  # of each class


@dataclass(frozen=True)
class Picture:
    """A picture that may lie in the pool."""

    kind: str
    origin: str  # the same for pictures of equal bytes
    image: Image.Image


def main() -> None:
    """Write all of it, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    heap(args.data, args.out)


def heap(data: Path, out: Path) -> None:
    """Write pool, seeds, what is held out, and the truth, which comes last."""
    if (out / "truth.csv").exists():
        return
    draw = np.random.default_rng(29)
    drawings = list(_clipart(data / "openclipart_96.zip", out / "held-out" / "clipart"))
    clothes = list(_clothes(data / "fashion_mnist_10k_2k.npz", out / "held-out" / "clothes"))
    emoji = list(_emoji(data / "emoji_noto_twemoji_64.zip", out / "held-out"))
    seeds, pool = list[Picture](), list[Picture]()
    for name, pictures in (("clipart", drawings), ("clothes", clothes), ("emoji", emoji)):
        chosen = _balanced(pictures, SEEDS[name], draw)
        seeds += chosen
        taken = {each.origin for each in chosen}
        pool += [each for each in pictures if each.origin not in taken]
    for number, each in enumerate(seeds):
        _save(each.image, out / "seeds" / f"{number:03}.png")
    lines = [(each, "", each.image) for each in _long_tailed(pool, draw)]
    lines += [(each, how, altered(each.image, how, draw)) for each, how in _copies(pool, draw)]
    rows = []
    for number, place in enumerate(draw.permutation(len(lines)).tolist()):
        picture, how, image = lines[place]
        file = f"{number:05}.{'jpg' if how == 'encoded' else 'png'}"
        _save(image, out / "pool" / file, quality=int(draw.integers(20, 60)))
        rows.append({"file": file, "kind": picture.kind, "origin": picture.origin, "altered": how})
    _table(out / "truth.csv", rows)


def truth(heaped: Path) -> dict[str, dict[str, str]]:
    """Return the truth of every file of the pool."""
    with (heaped / "truth.csv").open() as file:
        return {line["file"]: line for line in csv.DictReader(file)}


def _long_tailed(pool: list[Picture], draw: np.random.Generator) -> Iterator[Picture]:
    """Return all drawings and a few of the others."""
    yield from (each for each in pool if each.kind.startswith("clipart"))
    for number, label in enumerate(WORN, start=1):
        worn = [each for each in pool if each.kind == f"clothes/{label}"]
        yield from (worn[place] for place in draw.permutation(len(worn))[: CLOTHES // number].tolist())
    emoji = [each for each in pool if each.kind.startswith("emoji")]
    yield from (emoji[place] for place in draw.permutation(len(emoji))[:EMOJI].tolist())


def _copies(pool: list[Picture], draw: np.random.Generator) -> Iterator[tuple[Picture, str]]:
    drawings = [each for each in pool if each.kind.startswith("clipart") and each.kind != "clipart/shapes/stars"]
    for number, place in enumerate(draw.permutation(len(drawings))[:COPIED].tolist(), start=1):
        for turn in range(max(int(MOST / number**POWER), 1)):
            yield drawings[place], ALTERED[(number + turn) % len(ALTERED)]


def _balanced(pictures: list[Picture], count: int, draw: np.random.Generator) -> list[Picture]:
    """Choose pictures in turn of each kind, of openclipart of each top folder; no origin twice."""
    by_kind: dict[str, dict[str, Picture]] = defaultdict(dict)
    for place in draw.permutation(len(pictures)).tolist():
        each = pictures[place]
        by_kind["/".join(each.kind.split("/")[:2])].setdefault(each.origin, each)
    heaps = [list(origins.values()) for _, origins in sorted(by_kind.items())]
    turns = [heap[turn] for turn in range(max(map(len, heaps))) for heap in heaps if turn < len(heap)]
    return turns[:count]


def _clipart(path: Path, held: Path) -> Iterator[Picture]:
    """Yield the drawings of the pool, and write held-out folders of 20 to 60 different drawings each."""
    folders: dict[str, dict[str, Image.Image]] = defaultdict(dict)
    pool = []
    with zipfile.ZipFile(path) as archive:
        index = [line.split("\t") for line in archive.read("index.tsv").decode().splitlines()]
        apart = {digest for _, name, _, _, digest in index if name.split("/")[0] in HELD_CLIPART}
        for number, name, _, _, digest in index:
            image = _small(Image.open(io.BytesIO(archive.read(f"{int(number):05}.webp"))))
            if min(image.size) < LEAST:
                continue
            folder = name.rpartition("/")[0]
            if name.split("/")[0] in HELD_CLIPART:
                if not any(digest in others for others in folders.values()):
                    folders[folder][digest] = image
            elif digest not in apart:
                pool.append(Picture(f"clipart/{folder}", digest, image))
    for folder, images in folders.items():
        if len(images) >= 20 and "cards" not in folder:
            for place, image in enumerate(list(images.values())[:60]):
                _save(image, held / folder.replace("/", "-") / f"{place}.png")
    yield from pool


def _clothes(path: Path, held: Path) -> Iterator[Picture]:
    arrays = np.load(path)
    seen = Counter[int]()
    for place, (pixels, label) in enumerate(zip(arrays["x_train"], arrays["y_train"].tolist(), strict=True)):
        image = Image.fromarray(pixels).convert("RGB")
        seen[label] += 1
        if label in WORN:
            yield Picture(f"clothes/{label}", f"clothes-{place}", image)
        elif seen[label] <= HELD_CLOTHES:
            _save(image, held / str(label) / f"{place}.png")


def _emoji(path: Path, held: Path) -> Iterator[Picture]:
    """Yield emoji of the pool, and write a table of the held-out ones in both styles."""
    rows = []
    with zipfile.ZipFile(path) as archive:
        for entry in json.loads(archive.read("labels.json")):
            for style in ("noto", "twemoji"):
                image = _small(Image.open(io.BytesIO(archive.read(f"{style}/{entry['id']}.webp"))))
                if entry["category"] not in HELD_EMOJI:
                    yield Picture(f"emoji/{entry['category']}", f"{style}-{entry['id']}", image)
                    continue
                _save(image, held / "emoji" / style / f"{entry['id']}.png")
                rows.append({"path": f"emoji/{style}/{entry['id']}.png", "label": entry["id"], "style": style})
    _table(held / "emoji.csv", rows)


def _small(image: Image.Image) -> Image.Image:
    """Lay a picture on white and shrink it."""
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    white.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return white.convert("RGB")


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def _table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
