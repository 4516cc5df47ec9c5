"""What is said to a person, and when."""

import time

import pytest

from dinokit.core.messages import slow


def test_what_takes_long_is_said_and_what_does_not_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with slow("quick"):
        pass
    with slow("looking for images"):
        deadline = time.monotonic() + 5
        while not (said := capsys.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert said == "looking for images\n"
