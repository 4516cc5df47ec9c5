"""Detection on frozen features: a decoder is trained on one split and finds the boxes of another.

    small      100 queries, 512 pixels, 3,000 steps; the features of all images and their mirrors are computed once
    few        20 queries, 2,000 steps on 512 pictures that are made of fewer images: of `predict --train-on`
    dinov3     1,500 queries, 2,048 pixels, eight sizes and mirrors at test: the published one

A training runs on one device; `dinokit plan detection` says what it takes, which for `dinov3` is far more than a day.

Detections are those of the last layer, the best scores over queries and classes; their average precision is COCO's
(metrics/detection.py), that of LVIS on LVIS. Crowds and difficult objects are neither learnt nor missed. Detections are
written with the ids of images and classes of the data, where a file of COCO says them, so that it can be asked again.
Source: Plain-DETR (arXiv:2308.01904), DINOv3 (arXiv:2508.10104, section 6.2.2 and appendix D.9); the network stands in
dense/detr/.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import numpy
from torch import nn

from dinokit.annotations.boxes import Boxed, box_domains, box_splits, open_boxes
from dinokit.annotations.marks import Marks
from dinokit.core.files import digest_of_model, write_atomic, write_json
from dinokit.core.messages import UserError, info, library
from dinokit.core.numbers import above, at_least
from dinokit.core.order import evenly
from dinokit.core.stopping import ended_as_by_hand
from dinokit.dense.detection import as_arrays, detect, drawn, least_of
from dinokit.dense.detr.few import more
from dinokit.dense.detr.learning import UNNAMED
from dinokit.dense.detr.network import Detector
from dinokit.dense.detr.recipe import RECIPES, Recipe
from dinokit.dense.detr.training import trained
from dinokit.dense.detr.views import View
from dinokit.dense.heads import About, save_head
from dinokit.dense.maps import WHOLE, frozen
from dinokit.evaluation.base import Found, check_untrained, halves, saved_head
from dinokit.evaluation.sets import parts
from dinokit.evaluation.sets.beforehand import known_by_heart, looked_at, say_crowded, say_unlearnt, unlearnt
from dinokit.evaluation.sets.domains import over_domains
from dinokit.evaluation.sets.mistakes import judged
from dinokit.metrics.detection import FREQUENCIES, NAMES, Ids, Objects, average_precision, plain, results
from dinokit.metrics.detection import Found as FoundBoxes
from dinokit.models.features import Backbone
from dinokit.sources.location import absolute

PATCHES = True  # what is measured are patches, not CLS
UNITS = dict.fromkeys((*NAMES, *(f"AP{one}" for one in FREQUENCIES), "ER"), "%")
MEASURING = {"data", "head", "test", "limit"}  # all that a saved head leaves to choose
TESTS = ("val", "test")  # splits to measure on
SHOWN = 12  # pictures


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which images, and how boxes are learnt from them."""

    data: str  # COCO, LVIS, COCO-O, Pascal VOC, labels of YOLO, a table of boxes, or images/ and masks/
    recipe: Literal["small", "few", "dinov3"] = "small"  # few: some images of one's own
    train: str | None = None  # split to learn from; null: train
    test: str | None = None  # split to measure on; null: val, or else test
    head: str | None = None  # a saved head that is measured instead of training one
    size: int | None = at_least(1, None)  # px of short side (long: up to 4/3, dinov3 8 times); null: 512, dinov3 2,048
    queries: int | None = at_least(1, None)  # null: 100, few 20, dinov3 1,500
    iterations: int | None = at_least(1, None)  # training steps; null: 3,000, few 2,000, dinov3 44,358
    batch_size: int | None = at_least(1, None)  # images per step; null: 8, few 4, dinov3 32
    lr: float | None = above(0, None)  # null: 2e-4, few 5e-4, dinov3 2.5e-5
    seed: int = at_least(0, 0)  # of initial weights, order and mirrors
    limit: int | None = at_least(1, None)  # test images, evenly spaced; null: all

    def __post_init__(self) -> None:
        check_untrained(self, leaves=MEASURING)


def run(backbone: Backbone, config: Config, out: Path | None) -> Found:
    """Train on one split and measure on the other; return `AP` and its like in percent.

    A saved head is measured on the domains of a folder such as COCO-O, if there are several: `AP` is their mean.

    Args:
        out: folder that receives the trained head as `head/`, detections.json as COCO writes results, truth.json,
            mistakes.json, pictures, and the features of the training images; an interrupted training goes on.
    """
    library("faster_coco_eval", extra="detection")
    if config.head is None:
        return learn(backbone, config, out)[2]
    head, about = saved_head(backbone, config.head, task="detection")
    domains = box_domains(config.data) if config.test is None else []
    if not domains:
        _, _, test, judges = halves(
            config, _opened(backbone, config), box_splits(config.data), prefers=TESTS, trains=False
        )
        _check_some(test, judges, "measure")
        how = _how(about.details) | {"held_out": not known_by_heart(test, about.details)}
        say_unlearnt(unlearnt(test, how["classes"]), how["classes"])
        return _measured(backbone, head, test=test, indices=judges, out=out, **how)
    found: dict[str, Found] = {}
    for domain in domains:
        test = _opened(backbone, config)(domain)
        judges, where = evenly(config.limit, len(test)).tolist(), None if out is None else out / domain
        _check_some(test, judges, "measure")
        say_unlearnt(unlearnt(test, about.details["classes"]), about.details["classes"])
        found[domain] = _measured(backbone, head, test=test, indices=judges, out=where, **_how(about.details))
        info(f"{domain}: AP {found[domain][0]['AP']:.1f} %")
    own = about.details.get("measured")
    numbers = over_domains({name: one for name, (one, _) in found.items()}, own, limit=config.limit)
    return numbers, {name: one | details for name, (one, details) in found.items()}


def learn(
    backbone: Backbone, config: Config, out: Path | None, *, alone: bool = False
) -> tuple[Detector, About, Found]:
    """Train a detector and measure it; return it, what it is, and how good it was.

    Args:
        alone: whether data without a split to measure on is taken, all of whose images are then learnt, and measured.
    """
    library("faster_coco_eval", extra="detection")
    known, domains = box_splits(config.data), box_domains(config.data) if config.test is None else []
    opened = _opened(backbone, config)
    if domains:
        raise UserError(
            f"{config.data} holds the sets {', '.join(domains)}: give the folder of one to train on, or --head to "
            "measure a saved head on all of them"
        )
    if alone and config.test is None and not set(TESTS) & set(known):
        train = test = opened(config.train or next(iter(known), None))
        judges = evenly(config.limit, len(test)).tolist()
    else:
        train, _, test, judges = halves(config, opened, known, prefers=TESTS)
    _check_some(train, range(len(train)), "train")
    _check_some(test, judges, "measure")
    recipe = chosen(config)
    recipe = replace(recipe, view=recipe.view.of(backbone))
    shared = looked_at(train, test, judges)
    classes = sorted({name or UNNAMED for one in train.marks for name in one.names})
    with ended_as_by_hand(), TemporaryDirectory() as passing:  # the pieces of a training that nobody keeps
        pieces = (out or Path(passing)) / "pieces"
        lessons = more(train, pieces, pictures=recipe.pictures, view=recipe.view, seed=config.seed)
        say_crowded([*lessons.marks, *(test.marks[index] for index in judges)], queries=recipe.queries)
        member = trained(backbone, lessons, classes, recipe, out)
    details: dict[str, Any] = {"classes": classes, "view": recipe.view.plain(), "tested": list(recipe.tested)}
    seen = [train.split] + [test.split] * (test.split != train.split and shared > 0)
    details |= {"learnt": {"data": absolute(config.data), "splits": seen}}
    if out is not None:  # whoever stops the measuring has a head, which `head` measures
        save_head(out / "head", member.head, About.of(backbone, "detection", WHOLE, details=details))
    how = _how(details) | {"held_out": not shared}
    numbers, found = _measured(backbone, member.head, test=test, indices=judges, out=out, **how)
    own = {"AP": numbers["AP"], "split": test.split, "data": absolute(config.data)}
    own |= {
        "images": len(judges),
        "limit": config.limit,
        "held_out": not shared,
        "shared": shared,
        "least": cast("dict[str, float]", found["drawn"])["least"],
    }
    about = About.of(backbone, "detection", WHOLE, details=details | {"measured": own})
    if out is not None:
        save_head(out / "head", member.head, about)
    return cast("Detector", member.head), about, (numbers | {"lr": recipe.lr}, found)


def _opened(backbone: Backbone, config: Config) -> Callable[[str | None], Boxed]:
    return lambda split: open_boxes(config.data, split=split, channels=backbone.channels, white=backbone.pixels.white)


def _how(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details of a head as it is measured with."""
    return {"classes": list(details["classes"]), "view": View(**details["view"]), "tested": tuple(details["tested"])}


def _check_some(data: Boxed, indices: Sequence[int], purpose: str) -> None:
    if not any((~(data.marks[index].crowd | data.marks[index].difficult)).any() for index in indices):
        raise UserError(f"expected boxes to {purpose} on in {data.name} that are no crowds and not difficult, got none")


def chosen(config: Config) -> Recipe:
    """Return the recipe with the settings that were given."""
    recipe = RECIPES[config.recipe]
    recipe = recipe if config.size is None else recipe.at(config.size)
    queries = config.queries or recipe.queries
    iterations = config.iterations or recipe.training.iterations
    return replace(
        recipe,
        queries=queries,
        many=queries,
        batch_size=config.batch_size or recipe.batch_size,
        lr=config.lr or recipe.lr,
        training=replace(recipe.training, iterations=iterations, seed=config.seed),
    )


def _measured(
    backbone: Backbone,
    head: nn.Module,
    *,
    test: Boxed,
    indices: Sequence[int],
    classes: Sequence[str],
    view: View,
    tested: Sequence[int],
    out: Path | None,
    held_out: bool = True,
) -> Found:
    """Find boxes on test images and compare them with those that were drawn."""
    known = [*classes, *unlearnt(test, classes)]
    places = {name: place for place, name in enumerate(known)}  # of LVIS 1,203, for a million boxes
    objects = [_objects(test.written[index], places) for index in indices]
    of, kept = [digest_of_model(backbone), digest_of_model(head), repr((view, tuple(tested)))], out and out / "found"
    with frozen(backbone) as device:
        head = head.to(device).eval()
        look = partial(detect, backbone, cast("Detector", head), view=view, tested=tested)
        found = parts.found(look, test, indices, folder=kept, of=of)
    arrays = [FoundBoxes(*as_arrays(one)) for one in found]
    often = [test.kinds[name].frequency or "f" if name in test.kinds else "f" for name in known]
    frequencies = often if test.federated else None
    numbers, each = average_precision(objects, arrays, classes=len(known), frequencies=frequencies)
    if out is not None:
        ids = _ids(test, indices, known)
        write_json(out / "truth.json", plain(objects, ids, frequencies))
        write_json(out / "detections.json", results(arrays, ids))
    rounded = {name: value for name, value in numbers.items() if not numpy.isnan(value)}
    about = {"data": test.name, "split": test.split, "held_out": held_out, "numbers": rounded, "classes": known}
    intervals, least = judged(test, indices, objects, arrays, about=about | {"AP": each.tolist()}, out=out)
    if out is not None:
        shown = least_of(least, held_out=held_out)
        for place in evenly(SHOWN, len(indices)).tolist():
            picture = drawn(test.read(indices[place]), found[place], known, least=shown)
            with write_atomic(out / "pictures" / f"{indices[place]:06d}.png") as temporary:
                picture.save(temporary, "PNG")
    if kept is not None:
        parts.forget(kept)
    details: dict[str, object] = {
        "classes": dict(zip(known, each.tolist(), strict=True)),
        "intervals": intervals,
        "drawn": {"least": least},  # no number beside AP
    }
    return rounded | {"images": float(len(indices))}, details


def _objects(marks: Marks, places: Mapping[str, int]) -> Objects:
    kinds = numpy.array([places[name or UNNAMED] for name in marks.names], dtype=numpy.int64)
    absent, some_drawn = (
        tuple(places[name] for name in sorted(names) if name in places) for names in (marks.absent, marks.some_drawn)
    )
    return Objects(marks.boxes, kinds, marks.areas, marks.crowd | marks.difficult, absent, some_drawn)


def _ids(test: Boxed, indices: Sequence[int], classes: Sequence[str]) -> Ids:
    """Return the ids of images and classes in the data's own file, where it says them, else from 1; new ones above."""
    said = [test.marks[index].number for index in indices]
    images = [number for number in said if number is not None]
    above = max((kind.number for kind in test.kinds.values()), default=0)
    new = {name: above + place for place, name in enumerate((one for one in classes if one not in test.kinds), start=1)}
    numbers = [test.kinds[name].number if name in test.kinds else new[name] for name in classes]
    return Ids(images if len(images) == len(said) else range(1, len(said) + 1), numbers, classes)
