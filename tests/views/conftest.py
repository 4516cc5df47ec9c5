"""What tests of views share."""

import sys
from collections.abc import Callable, Iterator

import pytest

from dinokit.views import quick


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Take numba away when it is called, as if it were not installed."""

    def take_away() -> None:
        monkeypatch.setitem(sys.modules, "numba", None)
        quick.usable.cache_clear()

    yield take_away
    monkeypatch.undo()
    quick.usable.cache_clear()
