"""What a cell means."""

import json

import pytest

from dinokit.sources.table import members, word_of


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        (["dog", "cat", " cat "], '["cat", "dog"]'),
        ([3, 10.0], '["10", "3"]'),
        (["cat"], "cat"),
        (["cat", None, -1], "cat"),
        ([], ""),
        ([[1, 2]], ""),
        ({"a": 1}, ""),
    ],
)
def test_a_list_of_words_is_one_label(cell: object, word: str) -> None:
    assert word_of(cell) == word


def test_members_of_labels_are_their_words() -> None:
    found = members(["cat", '["cat", "dog"]', "[half"])
    assert found is not None
    classes, named = found
    assert classes == ("[half", "cat", "dog")
    assert named.tolist() == [[False, True, False], [False, True, True], [True, False, False]]


def test_labels_of_one_word_have_no_members() -> None:
    assert members(["cat", "dog", '["odd name', json.dumps(["one"])]) is None
