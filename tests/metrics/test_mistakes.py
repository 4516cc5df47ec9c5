"""What a detector gets wrong, by hand and against naive loops."""

import numpy as np
import pytest

from dinokit.metrics import mistakes
from dinokit.metrics.detection import Found, Objects
from dinokit.metrics.matches import match
from dinokit.metrics.mistakes import ALARM, CONFUSED, DOUBLE, LOOSE, MISSED, MISTAKEN, NEITHER, RIGHT, TAKEN, Told
from tests.metrics.test_detection import drawn

BOX = [0.0, 0, 10, 10]


def things(*marks: tuple[list[float], int], crowd: tuple[int, ...] = ()) -> Objects:
    boxes = np.array([box for box, _ in marks], dtype=float).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    crowds = np.isin(np.arange(len(marks)), crowd)
    return Objects(boxes, np.array([kind for _, kind in marks], dtype=int), areas, crowds)


def said(*marks: tuple[list[float], int, float]) -> Found:
    boxes = np.array([box for box, _, _ in marks], dtype=float).reshape(-1, 4)
    kinds, scores = np.array([kind for _, kind, _ in marks], dtype=int), np.array([each[2] for each in marks])
    return Found(boxes, kinds, scores.astype(float))


def told(objects: Objects, found: Found, least: float = 0.5) -> Told:
    return mistakes.told(objects, found, match(objects, found), least=least)


def test_each_kind_of_box_and_object_has_its_word() -> None:
    far, wide = [50.0, 50, 60, 60], [100.0, 0, 110, 10]
    objects = things((BOX, 0), (far, 1), (wide, 0), ([200.0, 0, 290, 90], 0), crowd=(3,))
    found = said(
        (BOX, 0, 0.9),  # the first object
        ([0.0, 0, 10, 9], 0, 0.8),  # the same once more
        (far, 0, 0.8),  # is of class 1
        ([105.0, 0, 115, 10], 0, 0.7),  # a third of the object
        ([150.0, 150, 160, 160], 1, 0.6),  # nothing is there
        ([210.0, 10, 220, 20], 0, 0.6),  # on a crowd
        ([170.0, 150, 180, 160], 1, 0.4),  # not sure
    )
    one = told(objects, found)
    assert one.kinds.tolist() == [RIGHT, DOUBLE, CONFUSED, LOOSE, ALARM, NEITHER, NEITHER]
    assert one.about.tolist() == [0, 0, 1, 2, -1, -1, -1]
    assert one.states.tolist() == [TAKEN, MISTAKEN, MISSED, NEITHER]
    assert one.overlap[:4] == pytest.approx([1, 0.9, 1, 1 / 3])
    assert one.quality == pytest.approx(1 / (1 + (4 + 2) / 2))
    assert one.confusion == pytest.approx(0.8)


def test_an_object_that_is_found_is_not_confused_by_a_further_box() -> None:
    one = told(things((BOX, 0)), said((BOX, 0, 0.9), (BOX, 1, 0.8)))
    assert one.states.tolist() == [TAKEN]
    assert one.kinds.tolist() == [RIGHT, CONFUSED]


def test_an_image_of_nothing_has_no_quality_and_one_with_an_alarm_none_left() -> None:
    assert np.isnan(told(things(), said()).quality)
    assert told(things(), said((BOX, 0, 0.9))).quality == 0
    assert told(things((BOX, 0)), said()).quality == 0


def iou(one: np.ndarray, other: np.ndarray) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    inside = float(np.prod(np.maximum(sides, 0)))
    return inside / (float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - inside)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_told_is_what_loops_say(seed: int) -> None:
    """Without crowds, whose part is told above."""
    for one, ours in zip(*drawn(seed)[:2]):
        objects = Objects(one.boxes, one.classes, one.areas, np.zeros_like(one.crowd))
        free, good = set(range(len(one.boxes))), 0.0
        kinds = np.full(len(ours.scores), NEITHER)
        ranks = dict[int, int]()
        for place in np.argsort(-ours.scores, kind="stable"):
            box, kind = ours.boxes[place], int(ours.classes[place])
            ranks[kind] = ranks.get(kind, 0) + 1
            if ours.scores[place] < 0.3 or ranks[kind] > 100:
                continue
            shared = {thing: iou(box, one.boxes[thing]) for thing in range(len(one.boxes))}
            mine = {thing: value for thing, value in shared.items() if one.classes[thing] == kind}
            left = {thing: value for thing, value in mine.items() if thing in free and value >= 0.5}
            most = max(shared, key=lambda thing: shared[thing], default=-1)
            if left:
                taken = max(left, key=lambda thing: left[thing])
                free.remove(taken)
                good += left[taken]
                kinds[place] = RIGHT
            elif most >= 0 and shared[most] >= 0.5:
                kinds[place] = DOUBLE if most in mine else CONFUSED
            else:
                kinds[place] = LOOSE if max(mine.values(), default=0) >= 0.1 else ALARM
        right, wrong, lost = int((kinds == RIGHT).sum()), int((kinds > RIGHT).sum()), len(free)
        found = told(objects, ours, 0.3)
        assert found.kinds.tolist() == kinds.tolist()
        assert (found.states > TAKEN).sum() == lost
        if right + wrong + lost:
            assert found.quality == pytest.approx(good / (right + (wrong + lost) / 2))


@pytest.mark.parametrize("seed", range(10))
def test_the_score_that_is_sure_has_the_largest_f1(seed: int) -> None:
    objects, found, _ = drawn(seed)
    matched = [match(*pair) for pair in zip(objects, found, strict=True)]

    def f1(least: float) -> float:
        kinds = np.concatenate(
            [mistakes.told(*each, least=least).kinds for each in zip(objects, found, matched, strict=True)]
        )
        real = sum(int((~one.crowd).sum()) for one in objects)
        return 2 * (kinds == RIGHT).sum() / ((kinds != NEITHER).sum() + real)

    scores = np.unique(np.concatenate([one.scores for one in found]))
    if len(scores) and max(map(f1, scores)) > 0:
        assert f1(mistakes.sure(objects, found, matched)) == pytest.approx(max(map(f1, scores)))


def test_where_nothing_is_right_as_many_boxes_are_looked_at_as_there_are_objects() -> None:
    objects, found = things((BOX, 0), (BOX, 0)), said(*(([50.0, 0, 60, 10], 0, score) for score in (0.3, 0.2, 0.1)))
    assert mistakes.sure([objects], [found], [match(objects, found)]) == 0.2
    assert mistakes.sure([objects], [said()], [match(objects, said())]) == 1


@pytest.mark.parametrize("seed", range(10))
def test_what_is_counted_is_what_is_told(seed: int) -> None:
    objects, found, classes = drawn(seed)
    every = [told(*pair, least=0.3) for pair in zip(objects, found, strict=True)]
    table = mistakes.confusions(objects, found, every, classes=classes)
    boxes, states = mistakes.counts(objects, found, every, classes=classes)
    naive, wanted = np.zeros_like(table), np.zeros_like(boxes)
    for there, ours, one in zip(objects, found, every, strict=True):
        for kind, about, word in zip(ours.classes, one.about, one.kinds):
            if word != NEITHER:
                wanted[kind, word] += 1
            if word == CONFUSED:
                naive[there.classes[about], kind] += 1
                assert there.classes[about] != kind
    assert table.tolist() == naive.tolist()
    assert boxes.tolist() == wanted.tolist()
    assert boxes[:, CONFUSED].sum() == table.sum()
    assert boxes[:, RIGHT].sum() == states[:, TAKEN].sum()
    assert states.sum() == sum(int((~one.crowd).sum()) for one in objects)


def test_the_best_come_first_the_worst_are_wrong_and_the_most_confused_are_confused() -> None:
    perfect, nothing = told(things((BOX, 0)), said((BOX, 0, 0.9))), told(things(), said())
    missed, both = told(things((BOX, 0)), said()), told(things((BOX, 0), (BOX, 0)), said())
    confused = told(things((BOX, 0)), said((BOX, 1, 0.9)))
    every = [missed, nothing, perfect, both, confused]
    assert mistakes.best(every, 1) == [2]
    assert 1 not in mistakes.best(every, 5)
    assert mistakes.worst(every, 5) == [3, 4, 0]
    assert mistakes.most_confused(every, 5) == [4]
