"""A step on disk: whose folder it is, and when it is done."""

from pathlib import Path

import pytest

from dinokit.core.files import write_json
from dinokit.core.messages import UserError
from dinokit.curation.step import Step, numbers_of
from tests.curation.pools import files


def step(out: Path, *, name: str = "sort", seed: int = 0) -> Step:
    return Step(out, name, {"settings": {"levels": (3, 2)}, "seed": seed}, ("result",))


def finish(each: Step) -> None:
    each.begin()
    (each.out / "result").write_text("")
    assert each.end({"count": 4}) == {"settings": {"levels": [3, 2]}, "seed": 0, "count": 4}


def test_a_step_is_done_when_its_numbers_and_results_are_there(tmp_path: Path) -> None:
    assert step(tmp_path).done() is None
    step(tmp_path).begin()
    assert step(tmp_path).done() is None
    finish(step(tmp_path))
    assert step(tmp_path).done() == {"settings": {"levels": [3, 2]}, "seed": 0, "count": 4}
    (tmp_path / "result").unlink()
    assert step(tmp_path).done() is None


def test_numbers_that_were_edited_do_not_count(tmp_path: Path) -> None:
    finish(step(tmp_path))
    write_json(tmp_path / "sort.json", {"seed": 0, "count": 5})
    assert step(tmp_path).done() is None
    with pytest.raises(UserError, match=r"sort\.json is not what dinokit curate sort wrote; delete it and run that"):
        numbers_of(tmp_path, "sort", "settings")


def test_a_folder_belongs_to_one_step_with_one_stamp(tmp_path: Path) -> None:
    finish(step(tmp_path))
    with pytest.raises(UserError, match=r"was made with other seed \(seed is 1, was 0\); delete it"):
        step(tmp_path, seed=1).done()
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"holds other files such as result; give --out a new folder"):
        step(tmp_path, name="count").done()
    assert files(tmp_path) == before
    assert step(tmp_path, name="count").done(beside=("res*", "sort.json")) is None


def test_a_start_that_was_refused_before_any_work_binds_nobody(tmp_path: Path) -> None:
    step(tmp_path).begin()
    assert step(tmp_path, seed=1).done() is None
    (tmp_path / ".state").mkdir()
    with pytest.raises(UserError, match="was made with other seed"):
        step(tmp_path, seed=1).done()


def test_what_a_killed_process_was_writing_goes(tmp_path: Path) -> None:
    left = tmp_path / "part" / ".0001.parquet.77.part"
    left.parent.mkdir()
    left.write_text("half")
    step(tmp_path).begin()
    assert not left.exists()
