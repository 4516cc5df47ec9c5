"""The page of a detector."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import BrowserContext

from dinokit.core.files import write_json, write_jsonl
from dinokit.metrics.detection import Found, Objects
from dinokit.metrics.matches import match
from dinokit.metrics.mistakes import account
from dinokit.visuals.detection import write_page, write_pages
from tests.studio.browser import chromium, watched
from tests.visuals.test_save import saved

CLASSES = ["cat", "dog & co", "never"]


def written(folder: Path, *, images: int = 3) -> Path:
    """Write what an evaluation leaves: of two objects on each image one is found, one is confused or missed."""
    boxes = np.array([[5.0, 5, 40, 40], [50, 50, 90, 90]])
    objects = [Objects(boxes, np.array([0, 1]), np.full(2, 1500.0), np.zeros(2, bool)) for _ in range(images)]
    found = [
        Found(boxes[: 1 + place % 2], np.zeros(1 + place % 2, int), np.full(1 + place % 2, 0.9))
        for place in range(images)
    ]
    told = account(objects, found, [match(*pair) for pair in zip(objects, found)], classes=3, shown=8)
    for one in told["shown"]:
        file = folder / f"{one['place']}.png"
        noise = np.random.default_rng(one["place"]).integers(0, 255, (100, 100, 3), dtype=np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(file)
        one |= {"file": str(file), "size": [100, 100]}
    numbers = {"AP": 43.21, "AP50": 60.0, "APl": 0.0}
    about: dict[str, Any] = {
        "data": "pets",
        "split": "val",
        "held_out": True,
        "numbers": numbers,
        "intervals": {"AP": [40.04, 46.06]},
    }
    about |= {"classes": CLASSES, "AP": [90.0, 10.0, None]}
    about |= {"precision": {"0.5": [1 - place / 100 for place in range(101)], "0.75": [0.5] * 101}}
    write_json(folder / "mistakes.json", about | told)
    return folder


def test_the_page_says_how_well_it_finds_and_what_it_confuses(tmp_path: Path) -> None:
    write_jsonl(
        written(tmp_path) / "training.jsonl", [{"step": step, "loss": 9.0 / step, "lr": 0.1} for step in (1, 2)]
    )
    page = write_page(tmp_path).read_text()
    assert "AP 43.2 % (95 %: 40.0 to 46.1)" in page
    assert "2 classes on 3 images, val of pets" in page
    assert "left:40.04%;width:6.02%" in page
    assert "Loss in training" in page
    assert "IoU 0.75</li>" not in page
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page)
    cells = {
        name: re.findall("<td>(.*?)</td>", row) for name, row in rows if name != "dog &amp; co" or "90.0" not in row
    }
    assert cells["cat"] == ["90.0", "3", "3", "0", "0", "4", "3", "0"]
    assert ["cat", "1", "33.3 %"] in [re.findall("<td>(.*?)</td>", row) for name, row in rows if name == "dog &amp; co"]
    assert page.count('<figure class="chart boxed"') == 3 + 3 + 1
    assert not re.search(r"<script src|https?://(?!www.w3.org)|<link", page)
    inside = json.loads(re.search(r'id="numbers">(.*?)</script>', page)[1])  # type: ignore[index]
    assert inside["numbers"]["AP"] == 43.21
    assert inside["confusions"] == [[1, 0, 1]]
    assert inside["curve"][1]["loss"] == 4.5


def test_without_a_training_there_is_no_curve_of_it_and_the_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    page = write_page(written(tmp_path)).read_text()
    assert "Loss in training" not in page
    assert "Precision by recall" in page
    assert write_page(tmp_path).read_text() == page


def test_terms_of_the_loss_are_drawn_and_explained(tmp_path: Path) -> None:
    terms = {"loss": 6.0, "loss/class": 2.0, "loss/many": 3.0, "loss/proposals": 1.0}
    write_jsonl(written(tmp_path) / "training.jsonl", [{"step": step, **terms, "lr": 0.1} for step in (1, 2)])
    page = write_page(tmp_path).read_text()
    names = re.findall(r'<li><i class="s\d"></i>([a-z]+) <b>', page)
    assert names == ["loss", "class", "many", "proposals"]
    assert "The loss is the sum of class" in page


def test_where_nothing_is_right_the_page_does_not_say_so(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert "by which most is right" in write_page(folder).read_text()
    told = json.loads((folder / "mistakes.json").read_text())
    write_json(folder / "mistakes.json", told | {"boxes": [[0, 0, 1, 0, 0]] * 3})
    assert "for want of a right one the best: 3 boxes" in write_page(folder).read_text()


def test_what_is_known_by_heart_is_said(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert "by heart" not in write_page(folder).read_text()
    told = json.loads((folder / "mistakes.json").read_text())
    write_json(folder / "mistakes.json", told | {"held_out": False})
    assert "by heart" in write_page(folder).read_text()


def test_each_set_of_several_has_a_page(tmp_path: Path) -> None:
    written(tmp_path / "sketch")
    written(tmp_path / "tattoo")
    assert write_pages(tmp_path) == [tmp_path / name / "index.html" for name in ("sketch", "tattoo")]


def test_a_page_of_many_classes_draws_both_ends(tmp_path: Path) -> None:
    folder = written(tmp_path)
    told = json.loads((folder / "mistakes.json").read_text())
    told |= {"classes": [f"class {place}" for place in range(40)], "AP": [float(place) for place in range(40)]}
    told |= {"objects": [[1, 0, 0]] * 40, "boxes": [[1, 0, 0, 0, 0]] * 40, "confusions": []}
    write_json(folder / "mistakes.json", told)
    page = write_page(folder).read_text()
    bars = re.findall(r'<span title="class (\d+)">', page)
    assert bars == [*map(str, range(39, 27, -1)), *map(str, range(11, -1, -1))]
    assert "mixed up most" not in page


@pytest.fixture(scope="module")
def context() -> Iterator[Callable[..., BrowserContext]]:
    with chromium() as make:
        yield make


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_nothing(context: Callable[..., BrowserContext], tmp_path: Path, width: int, scheme: str) -> None:
    seen = watched(context(viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=True))
    seen.page.goto(write_page(written(tmp_path)).as_uri())
    found = Axe().run(seen.page).response["violations"]
    assert not [(each["id"], each["nodes"][0]["html"]) for each in found]
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    seen.page.context.close()


@pytest.mark.slow
def test_a_saved_picture_has_its_photo_and_its_boxes(context: Callable[..., BrowserContext], tmp_path: Path) -> None:
    seen = watched(context(offline=True, viewport={"width": 1440, "height": 844}))
    seen.page.goto(write_page(written(tmp_path)).as_uri())
    tree = ElementTree.fromstring(saved(seen.page, "Save best 1 as SVG"))
    name = "{http://www.w3.org/2000/svg}"
    (image,), (use,) = tree.iter(f"{name}image"), tree.iter(f"{name}use")
    assert use.attrib["href"] == f"#{image.attrib['id']}"
    strokes = [one.attrib["stroke"] for one in tree.iter(f"{name}rect") if "stroke" in one.attrib]
    assert "rgb(127, 227, 164)" in strokes
    assert "✓ cat 0.90" in {one.text for one in tree.iter(f"{name}text")}
    assert seen.complaints == []
    seen.page.context.close()
