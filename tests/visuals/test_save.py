"""Figures are saved from a page without network, by the keyboard, in Debian's chromium."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import BrowserContext, Page

from dinokit.visuals.chart import Baseline, Course, Mark, Panel, Series, Span, panels
from dinokit.visuals.page import Section, data_uri, document, picture, table
from tests.studio.browser import chromium, watched

pytestmark = pytest.mark.slow
NAME = "{http://www.w3.org/2000/svg}"
COURSE = Course((Span("pretrain", 0, 6), Span("anchor", 6, 9)), (Mark("anchor", 3),))
PIXELS = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def context() -> Iterator[Callable[..., BrowserContext]]:
    with chromium() as make:
        yield make


@pytest.fixture
def page(tmp_path: Path, context: Callable[..., BrowserContext]) -> Iterator[Page]:
    """A page with a chart and a strip of pictures, opened from the disk in a dark room with the network off."""
    seen = watched(context(offline=True, color_scheme="dark", viewport={"width": 390, "height": 844}))
    seen.page.goto(written(tmp_path).as_uri())
    yield seen.page
    assert seen.complaints == []
    seen.page.context.close()


def written(folder: Path) -> Path:
    curve = Series("trained", [0, 5, 9], [50, 60.5, 61], 0, marks=True)
    upper = Panel([curve], [Baseline("raw", 55.0)], " %", title="k-NN")
    lower = Panel([Series("locality", range(10), [x / 9 for x in range(10)], 4)], title="<patches> & more")
    chart = panels([upper, lower], title="Whole & parts", course=COURSE)
    shown = picture(data_uri(PIXELS), alt="noise", sharp=True)
    strip = f'<ul class="strips"><li class="strip" data-save="Patches" style="--n:1"><div class="row"><figure>{shown}'
    strip += "<figcaption>step 5</figcaption></figure></div></li></ul><p data-numbers>Numbers.</p>"
    wide = table(["name", *(f"column {place}" for place in range(30))], [["row"] * 31], kind="wide")
    sections = [Section("A", "A", chart + strip + wide)]
    path = folder / "page.html"
    path.write_text(document(title="t", header="<h1>t</h1>", sections=sections, numbers={"curves": ["<b>"]}))
    return path


def saved(page: Page, button: str) -> bytes:
    """Press a button by the keyboard and return the file that comes."""
    page.get_by_role("button", name=button, exact=True).focus()
    with page.expect_download() as coming:
        page.keyboard.press("Enter")
    return coming.value.path().read_bytes()


def test_a_saved_drawing_has_the_lines_of_the_page_in_light_colours(page: Page) -> None:
    tree = ElementTree.fromstring(saved(page, "Save Whole & parts as SVG"))
    found = [line.attrib["points"] for line in tree.iter(f"{NAME}polyline")]
    assert found == page.eval_on_selector_all("svg polyline", "all => all.map(one => one.getAttribute('points'))")
    lines = list(tree.iter(f"{NAME}polyline"))
    assert [line.attrib["stroke"] for line in lines] == ["rgb(11, 99, 197)", "rgb(15, 118, 110)"]  # --s0, --s4 in light
    assert not any("var(" in value or value == "currentColor" for one in tree.iter() for value in one.attrib.values())
    assert not any("class" in one.attrib for one in tree.iter())
    background = next(tree.iter(f"{NAME}rect"))
    assert background.attrib["fill"] == "#ffffff"
    words = {one.text for one in tree.iter(f"{NAME}text")}
    assert {"Whole & parts", "<patches> & more", "trained", "61.0 %", "anchor", "pretrain"} <= words
    assert all("sans-serif" in one.attrib["font-family"] for one in tree.iter(f"{NAME}text"))


def test_a_saved_picture_is_the_drawing_in_pixels(page: Page) -> None:
    image = Image.open(io.BytesIO(saved(page, "Save Whole & parts as PNG")))
    pixels = numpy.asarray(image.convert("RGB"))
    assert image.width == 2 * (720 + 32)
    assert (pixels[:8] == 255).all()
    assert (numpy.abs(pixels.astype(int) - (11, 99, 197)).sum(axis=2) < 12).sum() > 500  # the curve


def test_pictures_are_saved_with_their_words(page: Page) -> None:
    tree = ElementTree.fromstring(saved(page, "Save Patches as SVG"))
    (image,) = tree.iter(f"{NAME}image")
    assert image.attrib["href"] == data_uri(PIXELS)
    assert [one.text for one in tree.iter(f"{NAME}text")] == ["step 5"]
    pixels = numpy.asarray(Image.open(io.BytesIO(saved(page, "Save Patches as PNG"))).convert("RGB"))
    assert len(numpy.unique(pixels.reshape(-1, 3), axis=0)) > 60


def test_numbers_are_saved_as_they_stand_in_the_page(page: Page) -> None:
    assert saved(page, "Save the numbers as JSON") == b'{"curves":["\\u003cb>"]}'


def test_saving_leaves_the_page_as_it_was(page: Page) -> None:
    before = page.content()
    saved(page, "Save Whole & parts as SVG")
    assert page.content() == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_nothing(context: Callable[..., BrowserContext], tmp_path: Path, width: int, scheme: str) -> None:
    # axe is a script from outside, which the page's policy would not let in
    seen = watched(context(viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=True))
    seen.page.goto(written(tmp_path).as_uri())
    found = Axe().run(seen.page).response["violations"]
    assert not [(each["id"], each["nodes"][0]["html"]) for each in found]
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    seen.page.context.close()
