"""Propagation against a loop over patches, for every shape of neighbourhood."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dinokit.core.messages import UserError
from dinokit.dense.tracking import Rule, Tracker, propagated

ROWS, COLUMNS, LABELS = 11, 9, 3


def features(frames: int, *, seed: int, coarse: bool = False) -> Tensor:
    drawn = torch.randn(frames, ROWS, COLUMNS, 6, generator=torch.Generator().manual_seed(seed))
    return normalize(drawn.sign() if coarse else drawn, dim=-1)  # signs alone: many equal cosines


def soft_labels(frames: int, *, seed: int) -> Tensor:
    return torch.rand(frames, ROWS, COLUMNS, LABELS, generator=torch.Generator().manual_seed(seed))


def by_loops(target: Tensor, context: Tensor, labels: Tensor, rule: Rule) -> Tensor:
    out = torch.zeros(ROWS, COLUMNS, LABELS)
    cosines = torch.einsum("yxd,fvud->yxfvu", target, context).tolist()
    for y in range(ROWS):
        for x in range(COLUMNS):
            voters = []
            for frame in range(len(context)):
                for v in range(ROWS):
                    for u in range(COLUMNS):
                        far = max(abs(y - v), abs(x - u)) if rule.shape == "square" else math.hypot(y - v, x - u)
                        if rule.radius is None or far <= rule.radius:
                            voters.append((cosines[y][x][frame][v][u], labels[frame, v, u]))
            cut = sorted((cosine for cosine, _ in voters), reverse=True)[: rule.neighbours][-1]
            kept = [(math.exp(cosine / rule.temperature), label) for cosine, label in voters if cosine >= cut - 1e-6]
            out[y, x] = sum(weight * label for weight, label in kept) / sum(weight for weight, _ in kept)
    return out


@pytest.mark.parametrize("shape", ["square", "circle"])
@pytest.mark.parametrize("radius", [0, 2, 4, None])
@pytest.mark.parametrize("coarse", [False, True])
def test_it_equals_a_loop_over_patches(shape: str, radius: int | None, coarse: bool) -> None:
    rule = Rule(radius=radius, shape=shape, neighbours=4, temperature=0.1)  # type: ignore[arg-type]
    target, context = features(1, seed=1, coarse=coarse)[0], features(3, seed=2, coarse=coarse)
    labels = soft_labels(3, seed=3)
    expected = by_loops(target, context, labels, rule)
    torch.testing.assert_close(propagated(target, context, labels, rule), expected, atol=1e-5, rtol=1e-4)


def test_the_context_is_the_first_frame_and_the_last_few() -> None:
    rule = Rule(context=2, radius=3, neighbours=2)
    frames, first = features(7, seed=4), soft_labels(1, seed=5)[0]
    tracker = Tracker(rule, frames[0], first)
    labels = [first]
    for now in range(1, 7):
        earlier = [0, *range(max(1, now - 2), now)]
        expected = propagated(frames[now], frames[earlier], torch.stack([labels[each] for each in earlier]), rule)
        found = tracker.follow(frames[now])
        torch.testing.assert_close(found, expected)
        labels.append(found)
    assert len(tracker.features) == 3


def test_without_context_only_the_first_frame_votes() -> None:
    rule = Rule(context=0, radius=None, neighbours=1)
    frames, first = features(4, seed=4), soft_labels(1, seed=5)[0]
    tracker = Tracker(rule, frames[0], first)
    tracker.follow(frames[1])
    expected = propagated(frames[2], frames[:1], first[None], rule)
    torch.testing.assert_close(tracker.follow(frames[2]), expected)


def test_a_still_scene_keeps_its_labels() -> None:
    frame = features(1, seed=6)[0]
    first = torch.nn.functional.one_hot(torch.arange(ROWS * COLUMNS) % 2, 2).view(ROWS, COLUMNS, 2).float()
    tracker = Tracker(Rule(radius=0, neighbours=1), frame, first)
    for _ in range(10):
        torch.testing.assert_close(tracker.follow(frame), first)


@pytest.mark.parametrize("settings", [{"context": -1}, {"neighbours": 0}, {"radius": -1}, {"temperature": 0.0}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="must be at least|temperature must be above 0"):
        Rule(**settings)  # type: ignore[arg-type]
