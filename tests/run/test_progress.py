"""What a run says of how far and how well it goes."""

from dinokit.health.verdict import HEALTHY, Verdict
from dinokit.run import progress


def test_the_pace_is_told_with_what_it_waits_for() -> None:
    assert progress.speed({"images_per_second": 384.41, "data_wait": 0.17}) == "384.4 img/s · 17% data wait"


def test_a_verdict_is_remarked_in_the_colour_of_its_word() -> None:
    assert progress._remark(Verdict("collapsing", "collapsing since step 12")) == ("collapsing since step 12", "yellow")
    assert progress._remark(Verdict(HEALTHY, "healthy"))[1] == "green"
    assert progress._remark(None) == ("", "")
