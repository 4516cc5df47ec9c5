"""Small copies of published sets for retrieval; pictures of one thing look alike, or everything is noise."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from dinokit.sources.instances import ATTACKS


def picture(path: Path, thing: int | None, shot: int) -> None:
    """Write a picture of a thing; of None it shows nothing that another one does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    look = numpy.random.default_rng([7] if thing is None else [1, thing]).integers(0, 180, (6, 8, 3))
    look = numpy.random.default_rng([2, shot]).integers(0, 180, (6, 8, 3)) if thing is None else look
    pixels = numpy.kron(look, numpy.ones((3, 3, 1)))
    pixels += numpy.random.default_rng([3, shot]).integers(0, 20, pixels.shape)
    Image.fromarray(pixels.astype(numpy.uint8)).save(path, quality=95)


def oxford(root: Path, *, name: str = "roxford5k", noise: bool = False) -> Path:
    """Three buildings: of each a query, two easy images, two hard ones and one that does not count; and six others."""
    database, query, truth, shot = [], [], [], 0
    for thing in range(3):
        rows: dict[str, list[int]] = {"easy": [], "hard": [], "junk": []}
        for kind in ("easy", "easy", "hard", "hard", "junk"):
            rows[kind].append(len(database))
            database.append(f"house_{len(database):06d}")
            picture(root / "jpg" / f"{database[-1]}.jpg", None if noise else thing, shot := shot + 1)
        query.append(f"asked_{thing}")
        picture(root / "jpg" / f"{query[-1]}.jpg", None if noise else thing, shot := shot + 1)
        truth.append({"bbx": [0.5, 1.0, 12.0, 9.0], **rows})
    for _ in range(6):
        database.append(f"house_{len(database):06d}")
        picture(root / "jpg" / f"{database[-1]}.jpg", None, shot := shot + 1)
    written(root, {"gnd": truth, "imlist": database, "qimlist": query}, name=name)
    return root


def written(root: Path, value: Any, *, name: str = "roxford5k", protocol: int = 4) -> None:
    """Write what is right."""
    root.mkdir(parents=True, exist_ok=True)
    (root / f"gnd_{name}.pkl").write_bytes(pickle.dumps(value, protocol=protocol))


def met(root: Path, *, noise: bool = False) -> Path:
    """Five exhibits of three training images, a photo of each to choose by and two to be asked; as many distractors."""
    lists: dict[str, list[dict[str, Any]]] = {"MET_database": [], "valset": [], "testset": []}
    shot = 0
    for exhibit in range(5):
        for name, count in (("MET_database", 3), ("valset", 1), ("testset", 2)):
            for _ in range(count):
                shot += 1
                path = f"{name}/{shot}.jpg"
                picture(root / "images" / path, None if noise else exhibit, shot)
                lists[name].append({"id" if count == 3 else "MET_id": 100 + exhibit, "path": path})
    for name, count in (("valset", 5), ("testset", 10)):
        for _ in range(count):
            shot += 1
            picture(root / "images" / f"other/{shot}.jpg", None, shot)
            lists[name].append({"path": f"other/{shot}.jpg"})
    lists["mini_MET_database"] = [entry for entry in lists["MET_database"] if entry["id"] < 103]
    (root / "ground_truth").mkdir()
    for name, entries in lists.items():
        (root / "ground_truth" / f"{name}.json").write_text(json.dumps(entries))
    return root


def amstertime(root: Path, *, noise: bool = False) -> Path:
    """Six places, in two times."""
    for place in range(6):
        picture(root / "new" / f"{place:04d}.png", None if noise else place, 2 * place)
        picture(root / "old" / f"{place:04d}.jpg", None if noise else place, 2 * place + 1)
    return root


def copydays(root: Path, *, noise: bool = False) -> Path:
    """Five originals, two strong copies of each, and one of some other attacks."""
    shot = 0
    for thing in range(5):
        picture(root / "original" / f"20{thing:02d}00.jpg", None if noise else thing, shot := shot + 1)
        for copy in (1, 2):
            picture(root / "strong" / f"20{thing:02d}{copy:02d}.jpg", None if noise else thing, shot := shot + 1)
        for attack in (ATTACKS[1], ATTACKS[-1]):
            picture(root / attack / f"20{thing:02d}00.jpg", None if noise else thing, shot := shot + 1)
    return root
