"""What is said to a person, and when."""

import time
from pathlib import Path

import pytest

from dinokit.core.messages import UserError, library, slow


def test_what_takes_long_is_said_and_what_does_not_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with slow("quick"):
        pass
    with slow("looking for images"):
        deadline = time.monotonic() + 5
        while not (said := capsys.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert said == "looking for images\n"


def test_a_library_that_is_broken_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shattered.py").write_text("import a_part_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"shattered cannot be imported \(No module named 'a_part_that_is_not_there'\)"):
        library("shattered", extra="timm")


def test_a_part_of_a_library_that_is_not_there_names_the_library() -> None:
    with pytest.raises(UserError, match=r"^no_such_library is not installed; run: pip install 'dinokit\[curate\]'$"):
        library("no_such_library.part", extra="curate")
