"""What numba has kept is used, and done without where it is torn or there is no room; slow, as functions compile."""

from pathlib import Path

import pytest

from dinokit.views import quick

pytestmark = pytest.mark.slow
numba = pytest.importorskip("numba")


def _one_more(value: int) -> int:
    return value + 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def _found() -> int:
    """Count what is found kept by a process that calls the function."""
    made = quick.kept()(_one_more)
    assert made(1) == 2
    return sum(made.stats.cache_hits.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [0, 9])
def test_what_is_torn_is_made_anew(folder: Path, kind: str, left: int) -> None:
    assert [_found(), _found()] == [0, 1]
    (file,) = folder.rglob(f"*.{kind}")
    file.write_bytes(file.read_bytes()[:left])
    assert [_found(), _found()] == [0, 1]


def test_what_is_kept_is_of_the_instructions_of_today(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [_found(), _found()] == [0, 1]
    monkeypatch.setattr(quick, "_instructions", lambda: b"others")
    assert [_found(), _found()] == [0, 1]


def test_without_room_nothing_is_kept(folder: Path) -> None:
    made = quick.kept()(_one_more)  # finds a folder
    for each in folder.iterdir():
        each.rmdir()
    folder.rmdir()
    folder.write_bytes(b"")
    assert made(1) == 2
