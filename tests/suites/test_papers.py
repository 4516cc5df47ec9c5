from pathlib import Path

import pytest

from dinokit.checkpoints.hub import RELEASES
from dinokit.sources import published as sets
from dinokit.suites import papers, table
from dinokit.suites.table import Line

DOCS = Path(__file__).parents[2] / "docs" / "comparators.md"


def test_a_number_of_a_table_is_found_by_model_protocol_and_set() -> None:
    knn = Line("knn", "classes", ("imagenet",))
    found = papers.published("vits14.dinov2", knn, "imagenet", {"top1@10": 1.0, "best": 2.0})
    assert [(one["number"], one["value"], one["tokens"]) for one in found] == [("best", 79.0, "256")]
    assert found == papers.published("timm/vit_small_patch14_dinov2.lvd142m", knn, "imagenet", {"best": 2.0})
    assert "table 4" in str(found[0]["source"])
    few = Line("knn", "classes", ("imagenet",), {"limit": 10})
    assert papers.published("vits14.dinov2", few, "imagenet", {"best": 2.0}) == []
    assert papers.published("runs/mine", knn, "imagenet", {"best": 2.0}) == []


def test_the_protocol_is_part_of_it() -> None:
    numbers = {"RMSE": 0.4}
    of = {name: Line("depth", "depth", ("nyuv2",), {"protocol": name}) for name in ("linear-v2", "linear4", "quick")}
    values = {
        name: [one["value"] for one in papers.published("vits14.dinov2", line, "nyuv2", numbers)]
        for name, line in of.items()
    }
    assert values == {"linear-v2": [0.449], "linear4": [0.417], "quick": []}
    large = Line("tracking", "videos", ("davis",), {"size": "L"}, "L")
    assert papers.published("vit7b16.dinov3_lvd1689m", large, "davis", {"J&F": 80.0})[0]["value"] == 83.3


def test_tables_are_whole() -> None:
    models = {one.model: one for one in papers.comparators()}
    lines = [line for lines in table.SUITES.values() for line in lines]
    known = {name for line in lines for name in line.sets} | set(sets.SETS)
    for one in papers.tables():
        assert one.model in models
        assert one.value >= 0  # SigLIP 2 has a GAP of 0 on Met
        assert one.protocol == "discovery" or one.data in known, one
    keys = [(one.model, one.protocol, one.data, one.number, one.source, one.tokens) for one in papers.tables()]
    assert len(set(keys)) == len(keys)
    names = [name for one in models.values() for name in one.names]
    assert len(set(names)) == len(names)
    assert {name for name in names if "/" not in name} <= set(RELEASES)
    assert all(one.names or one.note for one in models.values())


@pytest.mark.parametrize(("patch", "sides"), [(14, (224, 448)), (16, (256, 512)), (32, (256, 512)), (8, (128, 256))])
def test_sides_at_equal_numbers_of_tokens(patch: int, sides: tuple[int, int]) -> None:
    one = papers.Comparator("", patch, (), "")
    assert tuple(one.side(tokens) for tokens in papers.SIDES) == sides


def test_the_docs_name_all_comparators() -> None:
    assert papers.table_of_comparators() in DOCS.read_text(encoding="utf-8")
