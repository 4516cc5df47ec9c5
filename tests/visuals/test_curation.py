"""The page of a curation."""

import re
from pathlib import Path

import numpy as np
import pytest

from dinokit.core.files import read_json, write_json
from dinokit.core.messages import UserError
from dinokit.curation.account import read_account
from dinokit.curation.stored import finish, schema, write_part
from dinokit.sources.base import Unusable
from dinokit.visuals.curation import Config, counts, write_page
from tests.conftest import noise
from tests.curation.steps import ROWS, all_steps, vectors
from tests.visuals.test_report import Reader


def curated(root: Path) -> Path:
    """Take the steps of a curation."""
    data = noise(root / "images", *(f"{number}.png" for number in range(ROWS)), tinted=False)
    held = noise(root / "held", "0.png")
    seeds = noise(root / "seeds", *(f"{number}.png" for number in range(3)))
    all_steps(root / "set", data=str(data), held=str(held), seeds=str(seeds))
    return root / "set"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Such steps."""
    return curated(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such steps, which no test changes."""
    return curated(tmp_path_factory.mktemp("curation"))


@pytest.fixture(scope="module")
def whole(made: Path) -> tuple[str, Reader]:
    """The page of all steps."""
    return read(write_page(made, Config(), made.parent / "page.html"))


def read(path: Path) -> tuple[str, Reader]:
    page, reader = path.read_text(encoding="utf-8"), Reader()
    reader.feed(page)
    assert reader.open == []
    return page, reader


def test_a_page_tells_all_and_asks_nobody_for_anything(whole: tuple[str, Reader]) -> None:
    page, reader = whole
    assert re.findall(r'<h2 id="(.*?)-h">', page) == [
        "duplicates", "balance", "mosaic", "concepts", "retrieved", "fates", "settings"
    ]  # fmt: skip
    assert all(link.startswith(("#", "data:image/")) for link in reader.loaded)
    assert 'class="gone"' not in page
    assert "Some others" not in page  # four groups are no more than the largest


def test_the_fates_add_up_to_all_images_and_each_shows_twelve(whole: tuple[str, Reader]) -> None:
    page, _ = whole
    fates = page.split('id="fates-h"')[1].split("</section>")[0]
    rows = re.findall(r'<th scope="row">(.*?)</th><td>(\d+)</td>', fates)
    *each, (last, total) = [(name, int(count)) for name, count in rows]
    assert (last, total) == ("all images", ROWS)
    assert sum(count for _, count in each) == ROWS
    assert dict(each)["duplicates"] == 4
    parts = re.split("<h3>", fates)[1:]
    assert len(parts) == len(each)
    for (name, count), part in zip(each, parts, strict=True):
        beside = 2 if name in ("duplicates", "resembling a reference") else 1  # for whom it was dropped
        assert part.count("<img") == min(count, 12) * beside, name
    assert "<figcaption>reference</figcaption>" in fates


def test_counts_follow_the_steps(made: Path) -> None:
    found = dict(counts(read_account(made)))
    assert list(found) == ["embedded", "unique", "retrieved-1", "clustered", "balanced", "chosen"]
    assert (found["embedded"], found["unique"], found["clustered"], found["balanced"]) == (40, 35, 35, 12)


def test_the_same_folder_gives_the_same_page(made: Path, whole: tuple[str, Reader], tmp_path: Path) -> None:
    again, other = (
        write_page(made, Config(seed=seed), tmp_path / f"{seed}.html").read_text("utf-8") for seed in (0, 1)
    )
    assert whole[0] == again != other


def test_a_step_alone_has_the_sections_that_it_can_fill(out: Path) -> None:
    page, _ = read(write_page(out / "duplicates", Config()))
    assert re.findall(r'<h2 id="(.*?)-h">', page) == ["duplicates", "fates", "settings"]
    assert (out / "duplicates" / "report.html").is_file()


def test_the_threshold_that_was_found_is_drawn_where_its_curves_move(out: Path) -> None:
    grid = np.linspace(0, 1, 101)
    curve = np.where(grid < 0.8, 1.0, 5 * (1 - grid)).tolist()
    told = {"threshold": 0.9, "grid": grid.tolist(), "copies": {"blurred": curve}, "copies found": {"blurred": 0.5}}
    told |= {"nearest other image": curve, "F": curve, "random pairs": curve}
    write_json(out / "duplicates" / "threshold.json", told)
    plain, _ = read(write_page(out / "duplicates", Config()))
    assert "altered copies" not in plain  # a threshold that was given was not found
    numbers = read_json(out / "duplicates" / "dedup.json")
    write_json(out / "duplicates" / "dedup.json", numbers | {"settings": numbers["settings"] | {"threshold": "auto"}})
    page, _ = read(write_page(out / "duplicates", Config()))
    assert "altered copies found <b>0.5</b>" in page
    assert ">0.85</text>" in page
    assert ">0.6</text>" not in page.split('id="fates-h"')[0].split("cosine")[0]


def test_what_could_not_be_read_is_listed_and_counted(out: Path) -> None:
    none = {name: list[str]() for name in schema().names}
    lost = Unusable(ROWS, "lost.png", "cut short")
    write_part(out / "embeddings", 2, vectors()[:0], none, fingerprint="f", unread=(lost,))
    finish(out / "embeddings")
    page, _ = read(write_page(out, Config()))
    assert '<th scope="row">unreadable</th><td>1</td>' in page
    assert f'<th scope="row">all images</th><td>{ROWS + 1}</td>' in page
    assert '<th scope="row">lost.png</th><td>cut short</td>' in page
    assert counts(read_account(out))[0] == ("found", ROWS + 1)


def test_a_page_that_cannot_be_written_is_one_line(made: Path) -> None:
    with pytest.raises(UserError, match="cannot write .*; give --out another place"):
        write_page(made / "duplicates", Config(), made / "clusters")
