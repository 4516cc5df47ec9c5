"""A studio in a browser without a window: what is on its canvases, and that it never complains."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy
from jaxtyping import UInt8
from playwright.sync_api import BrowserContext, Page, sync_playwright

CHROMIUM = shutil.which("chromium")  # else the one that `playwright install` brings
PIXELS = """canvas => {
  const { width, height } = canvas;
  const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return [height, width, [...copy.getImageData(0, 0, width, height).data]];
}"""


@dataclass
class Seen:
    """A page, and what it has complained of."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def canvas(self, image: str, model: int = 0) -> UInt8[numpy.ndarray, "rows columns 3"]:
        """Return the colours of the map over an image, which is called by the name under it."""
        rows, columns, data = self.pane(image, model).locator("canvas").evaluate(PIXELS)
        return numpy.array(data, dtype=numpy.uint8).reshape(rows, columns, 4)[..., :3]

    def pane(self, image: str, model: int = 0) -> Any:
        """Return what a model shows of an image."""
        return self.page.locator(".tile", has_text=image).locator(".pane").nth(model)

    def point(self, image: str, row: float, column: float, grid: tuple[int, int], *, model: int = 0) -> None:
        """Move the mouse to the centre of a patch."""
        box = self.pane(image, model).bounding_box()
        self.page.mouse.move(
            box["x"] + (column + 0.5) / grid[1] * box["width"], box["y"] + (row + 0.5) / grid[0] * box["height"]
        )

    def text(self, selector: str) -> str:
        """Return what an element says."""
        return self.page.locator(selector).inner_text()

    def until(self, true: Callable[[], Any], *, seconds: float = 20) -> None:
        """Wait; the page's policy forbids what Playwright's own way of waiting evaluates."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, self.page.locator("body").inner_text()[:600]
            self.page.wait_for_timeout(20)

    def ready(self, maps: int) -> None:
        """Wait until so many maps are drawn."""
        self.until(lambda: self.page.locator(".pane canvas:not([hidden])").count() >= maps)


@contextmanager
def chromium() -> Iterator[Callable[..., BrowserContext]]:
    """Start the browser; what is yielded opens a context."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_context
        browser.close()


def watched(context: BrowserContext) -> Seen:
    """Open a page that notes every complaint of the browser."""
    seen = Seen(context.new_page())
    said = ("error", "warning")
    seen.page.on("console", lambda message: message.type in said and seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    return seen
