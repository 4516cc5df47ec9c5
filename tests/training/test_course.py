"""When the anchor is renewed."""

import pytest

from dinokit.core.messages import UserError
from dinokit.training.course import Anchor


def renewals(config: Anchor, *, steps: int) -> list[int]:
    return [done for done in range(1, steps + 1) if config.due(done)]


def test_it_is_renewed_at_multiples_from_the_first_on_so_many_times() -> None:
    # DINOv3: from 1,010,000 on, every 10,000, three times, in a stage that begins at 1,000,000
    published = Anchor(first=10, every=10, most=3)
    assert renewals(published, steps=100) == [10, 20, 30]
    assert renewals(Anchor(first=15, every=10, most=2), steps=100) == [20, 30]
    assert renewals(Anchor(every=7, most=99), steps=20) == [7, 14]
    assert renewals(Anchor(), steps=50) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"every": 5}, "both 0 or neither"),
        ({"source": "teacher", "every": 5, "most": 1}, "new at every step"),
        ({"source": ""}, "empty"),
        ({"first": -1}, "first must be at least 0"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Anchor(**settings)  # type: ignore[arg-type]
