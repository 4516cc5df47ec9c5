"""Who answers for what: the least cost of all assignments, and losses against naive loops."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision import ops

from dinokit.dense.detr import boxes as box
from dinokit.dense.detr import losses
from dinokit.dense.detr.learning import judged
from dinokit.dense.detr.losses import Weights, focal, ia_bce, terms
from dinokit.dense.detr.matching import Answers, Objects, assigned, cost
from dinokit.dense.detr.recipe import RECIPES
from tests.dense.detr.test_boxes import drawn


def said(queries: int = 4, classes: int = 3) -> Answers:
    draw = torch.Generator().manual_seed(5)
    references, deltas = drawn(queries), torch.randn(queries, 4, generator=draw) / 5
    return Answers(torch.randn(queries, classes, generator=draw), references, deltas, box.moved(references, deltas))


def there() -> Objects:
    return Objects(drawn(3, seed=2), torch.tensor([0, 2, 2]))


def costs_of(answers: Answers, objects: Objects) -> np.ndarray:
    """What it costs that a query of one layer and image answers for an object of it, [query, object]."""
    images = torch.zeros(len(objects), dtype=torch.int64)
    return cost(batch(answers), objects, images)[:, 0].T.numpy()


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_a_cost_is_the_sum_of_its_three_terms() -> None:
    answers, objects = said(), there()
    found = costs_of(answers, objects)
    for query, thing in itertools.product(range(4), range(3)):
        chance = sigmoid(answers.logits[query, objects.classes[thing]].item())
        right = 0.25 * (1 - chance) ** 2 * -math.log(chance)
        wrong = 0.75 * chance**2 * -math.log(1 - chance)
        wanted = box.deltas(answers.references[query], objects.boxes[thing])
        apart = (answers.deltas[query] - wanted).abs().sum().item()
        giou = ops.generalized_box_iou(answers.boxes[query][None], objects.boxes[thing][None]).item()
        assert found[query, thing].item() == pytest.approx(2 * (right - wrong) + apart - 2 * giou, rel=1e-4)


def test_the_assignment_is_the_cheapest_of_all() -> None:
    answers, objects = said(), there()
    costs = costs_of(answers, objects)
    queries, things = assigned(costs)
    least = min(
        sum(costs[query, thing] for thing, query in enumerate(chosen)) for chosen in itertools.permutations(range(4), 3)
    )
    assert sorted(things.tolist()) == [0, 1, 2]
    assert costs[queries, things].sum() == pytest.approx(least, rel=1e-5)


def test_every_object_is_answered_for_so_many_times() -> None:
    queries, things = assigned(costs_of(said(queries=9), there()), repeats=3)
    assert sorted(things.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(set(queries.tolist())) == 9


def batch(*images: Answers) -> Answers:
    """Answers of one layer."""
    each = ([getattr(image, name) for image in images] for name in ("logits", "references", "deltas", "boxes"))
    return Answers(*(torch.stack(list(one))[None] for one in each))


def test_no_object_leaves_the_loss_of_classes_alone() -> None:
    answers = said()
    nothing = Objects(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    found = terms(batch(answers), [nothing], Weights(), repeats=2).total
    torch.testing.assert_close(found, 2 * focal(answers.logits, torch.zeros_like(answers.logits)).sum())


@pytest.mark.parametrize("at_once", [1, losses.AT_ONCE])
def test_a_loss_is_the_sum_of_what_pairs_cost_over_layers_and_images(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two layers and three images, of which one shows nothing, against a loop; costs of an object at once, of all."""
    monkeypatch.setattr(losses, "AT_ONCE", at_once)
    draw = torch.Generator().manual_seed(3)
    references, deltas = (drawn(30, seed=seed).reshape(2, 3, 5, 4) / scale for seed, scale in ((4, 1), (5, 60)))
    answers = Answers(torch.randn(2, 3, 5, 3, generator=draw), references, deltas, box.moved(references, deltas))
    nothing = Objects(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    objects = [there(), nothing, Objects(drawn(2, seed=7), torch.tensor([1, 0]))]
    wanted = torch.zeros(())
    for layer, image in itertools.product(range(2), range(3)):
        one, target = answers.of(layer, image), torch.zeros(5, 3)
        for query, thing in zip(*assigned(costs_of(one, objects[image]))):
            target[query, objects[image].classes[thing]] = 1
            corners = objects[image].boxes[thing]
            wanted += (one.deltas[query] - box.deltas(one.references[query], corners)).abs().sum()
            wanted += 2 * (1 - ops.generalized_box_iou(one.boxes[query][None], corners[None])[0, 0])
        wanted += 2 * focal(one.logits, target).sum()
    torch.testing.assert_close(terms(answers, objects, Weights()).total, wanted / 5)


def test_focal_loss_is_that_of_torchvision() -> None:
    logits, target = torch.randn(5, 4), (torch.rand(5, 4) > 0.7).float()
    torch.testing.assert_close(focal(logits, target), ops.sigmoid_focal_loss(logits, target))


def test_ia_bce_against_a_loop() -> None:
    logits = torch.randn(3, 2, dtype=torch.float64)
    target = torch.tensor([[1.0, 0], [0, 0], [0, 1]], dtype=torch.float64)
    quality = target * 0.6
    found = ia_bce(logits, target, quality)
    for row, column in itertools.product(range(3), range(2)):
        chance = sigmoid(logits[row, column].item())
        wanted = chance**0.25 * 0.6**0.75
        right = -wanted * math.log(chance) - (1 - wanted) * math.log(1 - chance)
        wrong = -(chance**2) * math.log(1 - chance)
        assert found[row, column].item() == pytest.approx(right if target[row, column] else wrong)


def test_a_loss_is_per_object_whatever_the_images() -> None:
    twice = terms(batch(said(), said()), [there(), there()], Weights())
    torch.testing.assert_close(twice.total, terms(batch(said()), [there()], Weights()).total)


def test_scores_that_are_not_finite_end_in_a_loss_that_says_so() -> None:
    answers = said()
    answers.logits[0, 0] = np.nan
    assert not terms(batch(answers), [there()], Weights()).total.isfinite()


def test_what_lies_in_padding_answers_for_nothing() -> None:
    """Of three places two are no image, so two of three objects have none to answer for them."""
    answers = said(queries=3)
    answers.logits[1:] = torch.finfo(torch.float32).min / 4
    queries, _ = assigned(costs_of(answers, there()))
    assert queries.tolist() == [0]
    assert terms(batch(answers), [there()], Weights()).total < 100


def test_the_terms_of_all_that_a_detector_says_are_its_loss() -> None:
    recipe = replace(RECIPES["small"], queries=4, many=4, repeats=1)
    proposals = batch(said(4, 1))
    told = judged(recipe)((proposals, batch(said(8))), [there()], 0)
    assert list(told.terms) == ["class", "boxes", "deltas", "many", "proposals"]
    torch.testing.assert_close(sum(told.terms.values()), told.total)
    assert not any(term.requires_grad for term in told.terms.values())
