"""What the studio costs: memory while 10,000 images are browsed, the first page, and from a pointer to its picture.

    python benchmarks/studio.py FOLDER

FOLDER receives the pictures and a network once. The network is a transformer of one block: what is measured is the way
of its features (64 x 64 patches of 384 numbers of 12 images), not how they come about. Needs playwright and chromium.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from safetensors.torch import save_file

from dinokit.checkpoints.store import header
from dinokit.images.intensity import Pixels
from dinokit.models.vit import Config, VisionTransformer

SHOWN, LIST = 12, 240
SIZE, PATCH, DIM = 1024, 16, 384
CHROMIUM = "/usr/bin/chromium"
MOVES = 200
# notes for every event of the pointer how long after it the last map was put onto its canvas, in ms
WATCH = """
let event = 0;
const drawn = new Map();
window.took = () => [...drawn].map(([began, ended]) => ended - began);
window.forget = () => drawn.clear();
const put = CanvasRenderingContext2D.prototype.putImageData;
CanvasRenderingContext2D.prototype.putImageData = function (...given) {
  put.apply(this, given);
  drawn.set(event, performance.now());
};
const note = ({ timeStamp }) => { event = timeStamp; };
for (const kind of ["pointerrawupdate", "pointermove"]) addEventListener(kind, note, true);
"""


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("folder", type=Path)
    words.add_argument("--images", type=int, default=10_000)
    given = words.parse_args()
    folder, count = given.folder, given.images
    model, pictures = network(folder / "model.safetensors"), photos(folder / f"pictures-{count}", count)
    with studio(model, pictures) as (address, process):
        for turn in ("first", "second"):
            began, before = time.monotonic(), memory(process)
            browse(address, count)
            seconds = time.monotonic() - began
            print(f"{turn} walk over {count:,} images: {seconds:.0f} s, {before} -> {memory(process)} MB", flush=True)
        chosen = [str(number * count // SHOWN) for number in range(SHOWN)]
        began = time.monotonic()
        octets = sum(len(ask(address, f"api/features?model=a&image={image}")) for image in chosen)
        print(f"features of {SHOWN} images: {time.monotonic() - began:.1f} s, {octets / 1e6:.1f} MB", flush=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.add_init_script(WATCH)
            seconds = [opened(page, address) for _ in range(5)]
            print(f"page until all {SHOWN} maps are drawn, features kept: {statistics.median(seconds):.2f} s of 5")
            found = hovered(page)
            median, most = statistics.median(found), numpy.percentile(found, 95)
            print(f"pointer to picture, {len(found)} moves: median {median:.1f} ms, 95 % {most:.1f} ms")
            browser.close()
        print(f"at the end: {memory(process)} MB")


def opened(page: Page, address: str) -> float:
    """Open the page and wait for its maps."""
    page.goto("about:blank")
    began = time.monotonic()
    page.goto(address)
    while page.locator(".pane canvas:not([hidden])").count() < SHOWN:
        page.wait_for_timeout(10)
    return time.monotonic() - began


def hovered(page: Page) -> list[float]:
    """Move the pointer over the large image."""
    page.wait_for_timeout(1000)
    page.evaluate("forget()")
    box = page.locator("#main .pane").bounding_box()
    for move in range(MOVES):
        x, y = (20 + move * step % int(box[side] - 40) for step, side in ((37, "width"), (53, "height")))
        page.mouse.move(box["x"] + x, box["y"] + y)
    found: list[float] = page.evaluate("took()")
    return found


def browse(address: str, count: int) -> None:
    """Ask for every name and every small picture, as many at a time as a browser does."""
    with ThreadPoolExecutor(6) as threads:
        for first in range(0, count, LIST):
            images = json.loads(ask(address, f"api/images?from={first}&count={LIST}"))["images"]
            list(threads.map(lambda each: ask(address, f"api/images/{each['id']}/thumb"), images))


def ask(address: str, path: str) -> bytes:
    with urlopen(f"{address}{path}", timeout=120) as answer:
        return answer.read()


def memory(process: subprocess.Popen[str]) -> int:
    """Return the resident memory of a process in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024


@contextmanager
def studio(model: Path, pictures: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "dinokit", "studio", "--model", model, "--data", pictures, "--size", str(SIZE)]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process.stderr.readline().partition(" ")[0], process
        finally:
            process.terminate()


def network(path: Path) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = VisionTransformer(Config(patch_size=PATCH, dim=DIM, depth=1, heads=6, ffn_hidden=4 * DIM), seed=0)
        save_file(made.state_dict(), path, header(made.config, Pixels(size=224), step=0))
    return path


def photos(folder: Path, count: int) -> Path:
    """Write pictures that differ, once."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(list(folder.iterdir())), count):
        colours = numpy.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=numpy.uint8)
        Image.fromarray(colours).resize((320, 240), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg")
    return folder


if __name__ == "__main__":
    main()
