"""Every quantity that a run may log has a title, also one of an objective that nobody has told the report of."""

import pytest

from dinokit.visuals import glossary


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("loss/dino_global", "DINO, global crops"),
        ("loss/small/dino_global", "DINO, global crops, small"),
        ("loss/new_term", "Term of the loss, new_term"),
        ("loss/small/new_term", "Term of the loss, small, new_term"),
        ("loss", "Loss"),
        ("health/dino/used", "Prototypes in use, dino"),
    ],
)
def test_a_term_is_named_with_its_student_and_an_unknown_one_by_its_own_name(name: str, title: str) -> None:
    assert glossary.title(name) == title
    assert glossary.meaning(name)
