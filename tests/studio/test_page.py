"""The studio's page in a browser: what is drawn is what the features say, by pointer and by keys."""

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from jaxtyping import Float, Float32
from PIL import Image
from playwright.sync_api import BrowserContext, Route
from torch import Tensor

from dinokit.dense.draw import heat
from dinokit.features.embedding import unit
from dinokit.looks import pca
from dinokit.looks.field import Field
from dinokit.models.pixels import PatchPixels
from dinokit.studio import store
from dinokit.studio.export import export
from dinokit.studio.start import opened
from tests.studio.browser import Seen, chromium, watched
from tests.studio.conftest import Served, served

pytestmark = pytest.mark.slow

COUNT, GRID = 6, (8, 12)  # images; rows and columns of patches at 32 pixels
FIRST, OTHER = "0.png", "3.png"
Context = Callable[..., BrowserContext]


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    """The browser."""
    with chromium() as made:
        yield made


def shapes(folder: Path, count: int) -> Path:
    """Write pictures with something in them."""
    folder.mkdir(exist_ok=True)
    for index in range(count):
        draw = numpy.random.default_rng(index)
        pixels = numpy.full((32, 48, 3), draw.integers(0, 256, 3)) + draw.integers(-9, 9, (32, 48, 3))
        pixels[8:24, 8 + index : 24 + index] = draw.integers(0, 256, 3)
        Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def studio(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A run and another model on six pictures."""
    folder = shapes(tmp_path_factory.mktemp("shapes") / "x", COUNT)
    with served(opened(models, str(folder), size=32, device=torch.device("cpu"))) as found:
        yield found


@pytest.fixture
def seen(context: Context, studio: Served) -> Iterator[Seen]:
    """The page of both models, all of it drawn; at the end the browser has complained of nothing."""
    found = watched(context(viewport={"width": 1440, "height": 900}))
    found.page.goto(f"http://127.0.0.1:{studio.port}/")
    found.ready(2 * COUNT)
    yield found
    assert not found.complaints
    found.page.context.close()


def patches(studio: Served, image: int, model: str = "a", step: str = "") -> store.Patches:
    return store.patches(studio.get(f"/api/features?model={model}&image={image}&step={step}").data)


def maps(
    studio: Served, image: int, row: int, column: int, model: str = "a", step: str = ""
) -> list[Float32[numpy.ndarray, "rows columns"]]:
    """Return the cosines of all images with a patch of one, off the octets that the page gets."""
    feature = patches(studio, image, model, step).at(row, column)
    return [patches(studio, each, model, step).cosines(feature).reshape(GRID) for each in range(COUNT)]


def coloured(cosines: list[Float32[numpy.ndarray, "rows columns"]], image: int) -> numpy.ndarray:
    low, high = min(each.min() for each in cosines), max(each.max() for each in cosines)
    return heat((cosines[image] - low) / (high - low)).astype(int)


def test_the_maps_of_all_images_and_models_follow_the_pointer(seen: Seen, studio: Served) -> None:
    before = seen.canvas(OTHER)
    for image, row, column in ((0, 2, 3), (2, 7, 11)):
        seen.point(f"{image}.png", row, column, GRID, model=image // 2)
        for number, model in enumerate("ab"):
            expected = maps(studio, image, row, column, model)
            for each in range(COUNT):
                # 255 steps of colour, 1 of which is at most 4 levels of a channel
                assert abs(seen.canvas(f"{each}.png", number).astype(int) - coloured(expected, each)).max() <= 4
    assert (seen.canvas(OTHER) != before).any()
    assert seen.text("#readout").startswith("Row 8, column 12 of 2.png. Most alike elsewhere, ")


def test_a_pinned_patch_stays_and_others_are_compared_with_it(seen: Seen, studio: Served) -> None:
    seen.point(FIRST, 2, 3, GRID)
    seen.page.mouse.down()
    seen.page.mouse.up()
    pinned = seen.canvas(OTHER)
    seen.point(OTHER, 5, 6, GRID)
    numpy.testing.assert_array_equal(seen.canvas(OTHER), pinned)
    cosines = [maps(studio, 0, 2, 3, model)[3][5, 6] for model in "ab"]
    said = " and ".join(f"{each:.2f}" for each in cosines)
    assert (
        seen.text("#readout") == f"Cosine {said}: row 6, column 7 of 3.png, with the pinned row 3, column 4 of 0.png."
    )
    seen.pane(OTHER).focus()
    seen.page.keyboard.press("Escape")
    seen.point(OTHER, 6, 6, GRID)
    assert (seen.canvas(OTHER) != pinned).any()


def test_a_tap_marks_a_patch_and_the_next_tap_another(context: Context, studio: Served) -> None:
    seen = watched(context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True))
    seen.page.goto(f"http://127.0.0.1:{studio.port}/")
    seen.ready(2 * COUNT)
    box = seen.pane(FIRST).bounding_box()
    for row, column in ((2, 3), (7, 11)):
        x, y = (column + 0.5) / GRID[1] * box["width"], (row + 0.5) / GRID[0] * box["height"]
        seen.page.touchscreen.tap(box["x"] + x, box["y"] + y)
        seen.until(lambda: seen.text("#readout").startswith(f"Row {row + 1}, column {column + 1} of 0.png."))  # noqa: B023
        assert abs(seen.canvas(OTHER).astype(int) - coloured(maps(studio, 0, row, column), 3)).max() <= 4
    assert not seen.complaints
    seen.page.context.close()


def test_keys_move_and_pin_the_patch_and_a_reader_is_told(seen: Seen) -> None:
    seen.point(FIRST, 2, 3, GRID)
    seen.pane(FIRST).focus()
    for key in ("ArrowDown", "ArrowRight", "Shift+ArrowRight", "Enter"):
        seen.page.keyboard.press(key)
    assert seen.text("#readout").startswith("Pinned: row 4, column 10 of 0.png. Most alike elsewhere, ")
    seen.until(lambda: seen.text("#said").startswith("Pinned: row 4, column 10 of 0.png."))
    seen.page.keyboard.press("ArrowLeft")
    assert "row 4, column 9 of 0.png, with the pinned row 4, column 10" in seen.text("#readout")
    for key, mode in (("2", "pca"), ("3", "attention"), ("1", "cosine")):
        seen.page.keyboard.press(key)
        assert seen.page.locator(f"input[value={mode}]").is_checked()
    seen.page.keyboard.press("?")
    assert seen.page.locator("#help").is_visible()


def test_pca_has_the_colours_of_dinokit_look(seen: Seen, studio: Served) -> None:
    seen.page.locator("input[value=pca]").check()
    for number, model in enumerate("ab"):
        there = [patches(studio, each, model) for each in range(COUNT)]
        rows = [torch.tensor(each.scales[:, None] * each.values.astype(numpy.float32)) for each in there]
        fields = [Field("", torch.zeros(3, 32, 48), each.reshape(*GRID, -1), (48, 32)) for each in rows]
        paint = pca.fit(PatchPixels(patch_size=4), fields, pca.Config(style="dinov2"))
        for each, known in enumerate(fields):
            expected = paint(known)[0][1].astype(int)
            seen.until(lambda: abs(seen.canvas(f"{each}.png", number).astype(int) - expected).max() < 8)  # noqa: B023


def painted(context: Context, studio: Served, given: Float[Tensor, "image rows columns dim"]) -> list[numpy.ndarray]:
    """Return the colours of the patches of images whose features are given."""
    seen = watched(context(viewport={"width": 1440, "height": 900}))

    def answer(route: Route) -> None:
        (image,) = parse_qs(urlsplit(route.request.url).query)["image"]
        route.fulfill(body=store.octets(given[int(image)], name=image))

    seen.page.route("**/api/features?*", answer)
    seen.page.goto(f"http://127.0.0.1:{studio.port}/#mode=pca")
    seen.ready(2 * COUNT)
    seen.page.wait_for_timeout(300)  # the last image has arrived: all are painted once more
    found = [seen.canvas(f"{image}.png").astype(int) for image in range(COUNT)]
    assert not seen.complaints
    seen.page.context.close()
    return found


def expected(given: Float[Tensor, "image rows columns dim"]) -> list[numpy.ndarray]:
    """Return what looks.pca makes of features of length 1."""
    fields = [Field("", torch.zeros(3, *each.shape[:2]), unit(each).float(), each.shape[:2]) for each in given]
    paint = pca.fit(PatchPixels(patch_size=1), fields, pca.Config(style="dinov2"))
    return [paint(each)[0][1].astype(int) for each in fields]


def objects(*sizes: int, parts: int, seed: int = 0) -> Float[Tensor, "image rows columns dim"]:
    """Make features of images whose inside, an object, has so many parts, each less marked than the one before."""
    draw = torch.Generator().manual_seed(seed)
    inside = torch.zeros(COUNT, *sizes, 1)
    inside[:, 1:-1, 1:-1] = 1.0
    axes, _ = torch.linalg.qr(torch.randn(32, parts + 1, generator=draw))
    marked = 0.6 ** torch.arange(parts) * torch.rand(COUNT, *sizes, parts, generator=draw)
    return torch.cat([2 * inside - 1, inside * marked], dim=-1) @ axes.T


def test_a_component_of_rounding_alone_is_grey(context: Context, studio: Served) -> None:
    given = objects(*GRID, parts=1)
    for found, wanted in zip(painted(context, studio, given), expected(given), strict=True):
        assert abs(found - wanted).max() <= 4
        assert set(found[1:-1, 1:-1, 2].flatten()) == {128}


def test_a_sample_of_many_patches_has_the_colours_of_all(context: Context, studio: Served) -> None:
    given = objects(22, 24, parts=5)  # 2,640 of the objects, of which 2,048 are sampled
    worst = max(abs(f - w).max() for f, w in zip(painted(context, studio, given), expected(given), strict=True))
    assert worst <= 13, worst  # 5 %: the axes are those of a sample


def test_where_no_patch_has_an_inside_the_skew_decides_the_colours(context: Context, studio: Served) -> None:
    given = objects(*GRID, parts=5)[:, :2]  # the object is the rarer half
    for found, wanted in zip(painted(context, studio, given), expected(given), strict=True):
        assert abs(found - wanted).max() <= 4


def test_a_threshold_parts_foreground_from_background(seen: Seen) -> None:
    seen.page.locator("input[value=pca]").check()
    dark = []
    for value in ("-3", "0", "1"):
        seen.page.locator("#threshold").fill(value)
        seen.page.wait_for_timeout(100)
        dark.append(sum((seen.canvas(f"{each}.png").sum(axis=2) == 0).sum() for each in range(COUNT)))
    assert dark[0] < dark[1] < dark[2] < COUNT * GRID[0] * GRID[1]


def test_attention_is_drawn_of_each_head_and_their_mean(seen: Seen, studio: Served) -> None:
    octets = studio.get("/api/attention?model=b&image=3").data
    mean, *heads = numpy.frombuffer(octets, dtype=numpy.uint8, offset=12).reshape(-1, *GRID).astype(float)
    seen.page.locator("input[value=attention]").check()
    for choice, values in (("mean", mean), ("1", heads[1])):
        seen.page.locator("#head").select_option(choice)
        expected = heat(values / values.max()).astype(int)
        seen.until(lambda: abs(seen.canvas(OTHER, 1).astype(int) - expected).max() <= 4)  # noqa: B023


def test_a_slider_goes_through_the_checkpoints_of_a_run(seen: Seen, studio: Served) -> None:
    seen.point(FIRST, 2, 3, GRID)
    other = seen.canvas(OTHER, 1)
    seen.page.locator("#steps input").fill("0")
    expected = coloured(maps(studio, 0, 2, 3, step="0"), 3)
    seen.until(lambda: abs(seen.canvas(OTHER).astype(int) - expected).max() <= 4)
    assert seen.text("#steps output") == "step 0"
    numpy.testing.assert_array_equal(seen.canvas(OTHER, 1), other)  # the other model is no run


def test_an_own_image_is_chosen_or_dropped(seen: Seen) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 80).convert("RGB").save(buffer, "PNG")
    seen.page.locator("#file").set_input_files(
        {"name": "möwe.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    )
    seen.ready(2 * (COUNT + 1))
    assert seen.text("#main .name") == "möwe.png"
    assert seen.canvas("möwe.png").shape == (8, 11, 3)
    dropped = seen.page.evaluate_handle(
        """octets => { const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(octets)], "second.png", { type: "image/png" })); return data; }""",
        list(buffer.getvalue()),
    )
    seen.page.dispatch_event("body", "drop", {"dataTransfer": dropped})
    seen.until(lambda: seen.text("#main .name") == "second.png")
    seen.ready(2 * (COUNT + 2))


def test_searches_by_image_and_by_patch_show_what_they_find(seen: Seen) -> None:
    seen.page.get_by_label("take 3.png away").click()
    seen.page.locator("#find-image").click()
    seen.until(lambda: seen.page.locator(".hit").count() >= COUNT - 1)
    assert seen.text("#found-said") == f"Nearest to 0.png, among all {COUNT} images."
    seen.page.get_by_role("button", name="3.png, ").click()
    seen.ready(2 * COUNT)
    seen.point(OTHER, 5, 6, GRID)
    seen.page.locator("#find-patch").click()
    seen.until(lambda: "the patch in row 6, column 7 of 3.png" in seen.text("#found-said"))
    seen.until(lambda: seen.page.locator(".hit .best").count() >= COUNT - 1)
    seen.pane(OTHER).focus()
    seen.page.keyboard.press("f")  # like the image that has the focus
    seen.until(lambda: seen.text("#found-said").startswith("Nearest to 3.png, among"))


def test_a_view_is_found_again_by_its_address(seen: Seen) -> None:
    seen.point(OTHER, 5, 6, GRID)
    seen.page.mouse.down()
    seen.page.mouse.up()
    seen.page.locator("#smooth").check()
    seen.until(lambda: "pinned=yes" in seen.page.url and "smooth=yes" in seen.page.url)
    known, said, address = seen.canvas(FIRST), seen.text("#readout"), seen.page.url
    seen.page.goto("about:blank")
    seen.page.goto(address)
    seen.ready(2 * COUNT)
    seen.until(lambda: seen.text("#readout") == said)
    numpy.testing.assert_array_equal(seen.canvas(FIRST), known)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_nothing(context: Context, studio: Served, width: int, scheme: str) -> None:
    seen = watched(context(viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce"))
    seen.page.goto(f"http://127.0.0.1:{studio.port}/#mode=pca")
    seen.ready(2 * COUNT)
    seen.page.locator("#find-image").click()
    seen.until(lambda: seen.page.locator(".hit").count() >= COUNT - 1)
    found = Axe().run(seen.page).response["violations"]
    assert not [(each["id"], each["nodes"][0]["html"]) for each in found]
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert not seen.complaints
    seen.page.context.close()


def test_an_exported_page_works_from_disk_without_a_network(
    context: Context, models: dict[str, str], tmp_path: Path
) -> None:
    run, page = next(iter(models)), tmp_path / "page.html"
    found = opened({run: "run"}, str(shapes(tmp_path / "x", 4)), size=32, device=torch.device("cpu"))
    export(found, page, steps=[0, 100])
    found.close()
    seen = watched(context())
    seen.page.context.set_offline(True)
    asked: list[str] = []
    seen.page.on("request", lambda request: asked.append(request.url))
    seen.page.goto(page.as_uri())
    seen.ready(4)
    before = seen.canvas(OTHER)
    seen.point(FIRST, 7, 11, GRID)
    moved = seen.canvas(OTHER)
    assert (moved != before).any()
    seen.page.locator("#steps input").fill("0")
    seen.until(lambda: (seen.canvas(OTHER) != moved).any())
    for mode in ("pca", "attention"):
        now = seen.canvas(OTHER)
        seen.page.locator(f"input[value={mode}]").check()
        seen.until(lambda: (seen.canvas(OTHER) != now).any())  # noqa: B023
    assert not seen.page.locator("#find-image").is_visible()
    assert [each for each in asked if not each.startswith(("file:", "data:"))] == []
    assert not seen.complaints
    seen.page.context.close()


def test_ten_thousand_images_are_browsed_with_a_few_elements(
    context: Context, models: dict[str, str], tmp_path: Path
) -> None:
    folder = shapes(tmp_path / "x", 1)
    for index in range(1, 10_000):
        os.link(folder / "0.png", folder / f"{index}.png")
    _, other = models
    with served(opened({other: "other"}, str(folder), size=16, device=torch.device("cpu"))) as found:
        seen = watched(context(viewport={"width": 1440, "height": 900}))
        seen.page.goto(f"http://127.0.0.1:{found.port}/")
        seen.ready(12)
        most = 0
        for share in numpy.linspace(0, 1, 9):
            seen.page.locator("#gallery").evaluate(
                "(box, share) => { box.scrollTop = share * box.scrollHeight; }", share
            )
            seen.until(lambda: seen.page.locator("#gallery img").count() > 10)
            most = max(most, seen.page.locator("#gallery *").count())
        last = json.loads(found.get("/api/images?from=9999&count=1").data)["images"][0]["name"]
        seen.until(lambda: seen.page.get_by_role("button", name=last, exact=True).count())
        assert most < 200
        seen.page.locator("#jump").fill("5000")
        seen.page.keyboard.press("Enter")
        name = json.loads(found.get("/api/images?from=4999&count=1").data)["images"][0]["name"]
        seen.until(lambda: seen.page.locator(f'.thumb[title="{name}"]').count())
        assert not seen.complaints
        seen.page.context.close()
