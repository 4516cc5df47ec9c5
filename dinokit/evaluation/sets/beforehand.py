"""What is looked at before a detector is trained, so that no mistake of the data shows after hours of training.

Test images are read whole: a file that was cut has a header all the same. Two splits may name the same files, as the
data.yaml of a small set does, or `train: [train, val]`: files are told by where they lie, links followed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dinokit.annotations.boxes import Boxed
from dinokit.annotations.marks import Marks
from dinokit.core.messages import UserError, listed, progress, slow, warn
from dinokit.dense.detr.learning import UNNAMED
from dinokit.sources.location import absolute

BY_HEART = "the numbers say how well they are learnt by heart"


def looked_at(train: Boxed, test: Boxed, judges: Sequence[int]) -> int:
    """Say what is odd of two splits; return how many of the images to measure on are learnt from.

    Args:
        judges: indices of the images to measure on.

    Raises:
        UserError: if no class of the test split is learnt, or an image to measure on is not what its boxes lie on.
    """
    classes = {name or UNNAMED for one in train.marks for name in one.names}
    strange = unlearnt(test, classes)
    if strange == unlearnt(test, ()):
        raise UserError(
            f"no class of {test.split or test.name} is learnt: it holds {listed(strange)}, the training images hold "
            f"{listed(sorted(classes))}{_alike(strange, classes)}; call them alike in both"
        )
    say_unlearnt(strange, classes)
    with slow(f"reading the {len(judges):,} images to measure on before the training"):
        for index in progress(judges, len(judges)):
            test.read(index)
    learnt = {one.image.resolve() for one in train.marks}
    shared = sum(test.marks[index].image.resolve() in learnt for index in judges)
    if shared and test.split != train.split:  # of one split it is said elsewhere
        warn(f"{shared:,} of the {len(judges):,} images of {test.split} are in {train.split}, too: {BY_HEART}")
    return shared


def say_crowded(images: Iterable[Marks], *, queries: int) -> None:
    """Say how many images hold more objects than there are queries."""
    counts = [int((~(one.crowd | one.difficult)).sum()) for one in {one.image: one for one in images}.values()]
    more = sum(count > queries for count in counts)
    if more:
        warn(
            f"{more:,} images hold more objects than the {queries:,} queries, the most {max(counts):,}; "
            f"--queries {max(counts)} can find them all"
        )


def known_by_heart(test: Boxed, details: Mapping[str, Any]) -> bool:
    """Tell, and say, whether a saved head has learnt from the images that it is measured on, by its details."""
    own, learnt = (details.get(name) or {} for name in ("measured", "learnt"))
    splits = {learnt.get("data"): learnt.get("splits")}
    if not own.get("held_out", True):  # heads of before do not say what they have learnt from
        splits.setdefault(own["data"], [own["split"]])
    found = test.split in (splits.get(absolute(test.name)) or ())
    if found:
        warn(f"the head has learnt from the images of {test.split or test.name}: {BY_HEART}")
    return found


def unlearnt(test: Boxed, classes: Sequence[str] | set[str]) -> list[str]:
    """Return the classes of a test split that are none of those that were learnt."""
    return sorted({name or UNNAMED for one in test.written for name in one.names} - set(classes))


def say_unlearnt(strange: Sequence[str], classes: Sequence[str] | set[str]) -> None:
    """Say of which classes nothing is learnt."""
    if strange:
        names = ", ".join(strange[:3]) + "..." * (len(strange) > 3)
        warn(f"nothing was learnt of {names}: never found, AP 0 of each{_alike(strange, classes)}")


def _alike(strange: Sequence[str], classes: Sequence[str] | set[str]) -> str:
    near = {name.casefold(): name for name in classes}
    pairs = [f"{name} and {near[name.casefold()]}" for name in strange if name.casefold() in near]
    return f"; {listed(pairs)} differ by case alone" if pairs else ""
