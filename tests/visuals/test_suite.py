import re
from pathlib import Path

from dinokit.visuals.suite import write_page
from tests.conftest import MakeFolder
from tests.visuals.test_scores import cell, results


def test_the_page_needs_nothing_else_and_shows_numbers_bars_and_pictures(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    data = make_folder(*(f"{kind}/{index}.png" for kind in "ab" for index in range(4)))
    papers = [{"number": "best", "value": 79.0, "source": "a paper, table 4", "tokens": "256"}]
    found = results(
        cell("a", "photos", 70.0, intervals={"best": [68.0, 72.0]}, published=papers),
        cell("b", "photos", 50.0, chosen={"best_k": 10.0}),
    )
    found["sets"]["photos"]["source"] = str(data)
    found["missing"] = ["videos (tracking): <JPEGImages>"]
    page = write_page(found, tmp_path).read_text()
    assert "A is the best in 1 of 1 comparisons." in page
    assert "70.0 (68.0\N{EN DASH}72.0) / 79" in page
    assert "79 published (a paper, table 4)" in page
    assert page.count("data:image/png;base64") == 6
    assert "width:50.00%" in page
    assert "&lt;JPEGImages&gt;" in page
    assert not re.search(r"<script src|https://|<link", page)


def test_who_shares_a_first_place_shares_it_on_the_page(tmp_path: Path) -> None:
    both = results(*(cell(name, data, 70.0) for name in "ab" for data in ("photos", "rooms")))
    assert "A, B are the best, alone or with others, in 2 of 2 comparisons." in write_page(both, tmp_path).read_text()
    found = results(cell("a", "photos", 70.0), cell("b", "photos", 70.0), cell("a", "x", 2.0), cell("b", "x", 1.0))
    assert "A is the best, alone or with others, in 2 of 2" in write_page(found, tmp_path).read_text()


def test_sets_that_are_gone_and_a_single_model_make_a_page(tmp_path: Path) -> None:
    found = results(cell("a", "photos", 70.0))
    for kind in ("classes", "masks"):
        found["sets"]["photos"]["kinds"] = [kind]
        page = write_page(found, tmp_path).read_text()
        assert "photos · " in page
        assert "comparisons" not in page
