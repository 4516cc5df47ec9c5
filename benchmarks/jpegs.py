"""JPEGs of one size, made of photos, and the commands of sides that make views of them (loader.py, against.py)."""

import sys
from pathlib import Path

from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent


def copy(photos: Path, folder: Path, size: tuple[int, int], *, count: int) -> None:
    """Write so many JPEGs of (width, height) pixels, made of the photos in turn."""
    sources = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not sources:
        raise SystemExit(f"no JPEGs in {photos}")
    for number in range(count):
        photo = Image.open(sources[number % len(sources)]).convert("RGB")
        ImageOps.fit(photo, size, Image.Resampling.BICUBIC).save(folder / f"{number:04}.jpg", quality=90)


def ours(side: str, folder: str) -> list[str]:
    """Return what an interpreter is told, to be one of loader.py's SIDES."""
    return [str(HERE / "loader.py"), folder, "--side", side]


def lightly(python: str, folder: str) -> list[str]:
    """Return the command of LightlyTrain's side."""
    files = sorted(map(str, Path(folder).glob("*.jpg")))
    peer = str(HERE / "peers" / "lightly_views.py")
    # what dinokit.core.device.keep_freed_memory does, for a process of others
    keeps = ["MALLOC_MMAP_MAX_=0", f"MALLOC_TRIM_THRESHOLD_={sys.maxsize}"]
    return ["env", f"PYTHONPATH={HERE}", "OMP_NUM_THREADS=1", *keeps, python, peer, *files]
