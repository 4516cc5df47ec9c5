"""Which copies does `curate dedup` find, and what does it take for one? Precision and recall by threshold and kind.

    python benchmarks/curation.py DATA OUT
    python benchmarks/copies.py OUT

The pool is that of `pile.py`: planted copies by kind of alteration, and drawings of openclipart of equal bytes. Three
embeddings: the network that learned from the pool, the same untrained, and the pixels at 24 px. Of each, threshold
"auto" (which asks a network, so not of the pixels) and a curve over given ones, all by `dinokit.curate`:

    precision    of the images that are dropped, those that show the same picture as the image that stays for them
    recall       of all images that should be dropped, those that are, and for the same picture
    joined       by kind of alteration: copies that are in the component of their original, whoever else is

Drawings of other bytes that look the same count as wrong; in `with stars` a star for which a star stays is right, since
openclipart's 1,375 differ by an angle or a number. OUT/copies.json holds all numbers, OUT/copies.md the table.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pile
from altered import ALTERED
from jaxtyping import Shaped
from PIL import Image

import dinokit
from dinokit.curation.pool import Pool
from dinokit.curation.stored import begin, finish, write_part
from dinokit.curation.table import read_table

PIXELS, SIDE = "raw pixels", 24
GIVEN = (0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999)
STARS = "clipart/shapes/stars"


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--thresholds", type=float, nargs="+", default=GIVEN)
    args = parser.parse_args()
    out, images = args.out / "copies", args.out / "pile" / "pool"
    for name, model in (("trained", "first"), ("untrained", "first/checkpoints/0")):
        dinokit.embed(model=str(args.out / model), data=str(images), out=out / name / "embedded")
    pixels(Pool(out / "trained" / "embedded"), images, out / PIXELS / "embedded")
    lines = []
    for name in ("trained", "untrained", PIXELS):
        asked = [*(("auto",) if name != PIXELS else ()), *args.thresholds]
        for threshold in asked:
            place = out / name / str(threshold)
            found = dinokit.curate("dedup", str(out / name / "embedded"), out=place, threshold=threshold)
            told = truth(Pool(out / name / "embedded"), args.out / "pile")
            lines.append({"features": name, "asked": threshold, **found, **judged(place, told)})
    (args.out / "copies.json").write_text(json.dumps(lines, indent=1))
    (args.out / "copies.md").write_text(tables(lines))
    print(tables(lines))


def pixels(pool: Pool, images: Path, out: Path) -> None:
    """Write a pool of the same images whose vectors are their pixels."""
    if (out / "embed.json").exists():
        return
    table = pool.table().to_pydict()
    rows = np.empty((len(pool), 3 * SIDE * SIDE), dtype=np.float32)
    for row, key in enumerate(table["key"]):
        with Image.open(images / key) as image:
            small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        rows[row] = np.asarray(small, dtype=np.float32).reshape(-1) + 1  # black is not nothing
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    begin(out, {**pool.stamp, "weights": PIXELS, "model": PIXELS, "dim": rows.shape[1]})
    write_part(out, 0, rows.astype(np.float16), table, fingerprint=pool.fingerprint)
    finish(out)


def truth(pool: Pool, heaped: Path) -> dict[str, Shaped[np.ndarray, " row"]]:
    """Return of every row what it is, which picture it shows, and how it was altered."""
    by_file = pile.truth(heaped)
    lines = [by_file[key] for key in pool.keys]
    return {name: np.array([line[name] for line in lines]) for name in ("kind", "origin", "altered")}


def judged(place: Path, told: Mapping[str, Shaped[np.ndarray, " row"]]) -> dict[str, Any]:
    """Compare what was dropped with the truth."""
    dropped = read_table(place / "dropped.parquet")
    rows, others = dropped["row"], dropped["other"]
    origin, kind, altered = told["origin"], told["kind"], told["altered"]
    stays = np.arange(len(origin))
    stays[rows] = others
    right = origin[rows] == origin[others]
    _, counts = np.unique(origin, return_counts=True)
    originals = _firsts(origin, altered)
    of = np.array([originals[each] for each in origin.tolist()])
    joined = stays == stays[of]
    found = {how: float(joined[altered == how].mean()) for how in ALTERED}
    equal = (altered == "") & (of != np.arange(len(of)))
    stars = (kind[rows] == STARS) & (kind[others] == STARS)
    return {
        "precision": float(right.mean()) if len(rows) else 1.0,
        "recall": float(right.sum() / (counts - 1).sum()),
        "joined": found | {"equal bytes": float(joined[equal].mean())},
        "with stars": float((right | stars).mean()) if len(rows) else 1.0,
    }


def _firsts(origin: Shaped[np.ndarray, " row"], altered: Shaped[np.ndarray, " row"]) -> dict[str, int]:
    """Return the first unaltered row of every picture."""
    rows = np.flatnonzero(altered == "")[::-1]
    return dict(zip(origin[rows].tolist(), rows.tolist(), strict=True))


def tables(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a row per threshold."""
    kinds = (*ALTERED, "equal bytes")
    head = ["features", "threshold", "dropped", "largest group", "precision", "with stars", "recall", "F", *kinds]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for line in lines:
        precision, recall = line["precision"], line["recall"]
        f = 2 * precision * recall / max(precision + recall, 1e-9)
        said = f"auto: {line['threshold']:.5f}" if line["asked"] == "auto" else str(line["threshold"])
        shares = [f"{100 * each:.0f}" for each in (precision, line["with stars"], recall, f)]
        shares += [f"{100 * line['joined'][how]:.0f}" for how in kinds]
        cells = [line["features"], said, f"{line['duplicates']:,}", f"{line['largest group']:,}", *shares]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
