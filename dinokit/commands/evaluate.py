"""`dinokit evaluate`: measure frozen features beside honest baselines: knn, logreg, segmentation, ..., suite"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from dinokit import config as configuration
from dinokit.checkpoints.load import called, check_written, load
from dinokit.commands.tables import outdone, print_rows, print_table
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core import device as devices
from dinokit.core.files import (
    check_result,
    check_same,
    check_writable,
    digest_of_model,
    only_owner,
    read_json,
    write_json,
)
from dinokit.core.messages import info, is_main, warn
from dinokit.evaluation import base as evaluations
from dinokit.models.features import Backbone
from dinokit.run import ranks
from dinokit.sources.source import absolute
from dinokit.suites import cells
from dinokit.suites import found as sets
from dinokit.suites import table as suites
from dinokit.suites.columns import columns
from dinokit.visuals import detection as detectors
from dinokit.visuals import scores
from dinokit.visuals import suite as pages

STAMP = "evaluate.json"  # of a folder: what made it
BASELINES = "baselines"  # folder in it of what they learnt, if that takes long


def evaluate(
    task: str,
    *,
    model: str,
    data: str,
    tests: tuple[str, ...] = (),
    out: Path | None = None,
    save: Path | None = None,
    heads: int | None = None,
    baselines: bool = True,
    device: str = "auto",
    processes: int | None = None,
    settings: Settings = NO_SETTINGS,
    **named: Any,
) -> dict[str, dict[str, float]]:
    """Measure frozen features, with the untrained architecture and the raw pixels beside them.

    Args:
        task: knn, logreg, linear, attentive or retrieval; segmentation, depth, detection, foreground, tracking,
            matching or discovery, which look at patches.
        model: a run folder, RUN/checkpoints/STEP, a weights file, a name that `dinokit models` lists; or a peer:
            timm/NAME, hf/NAME, open_clip/NAME.
        data: a folder with one folder per class, with train/ and val/ or test/ above them, a demo: name, or anything
            with labels that `pretrain` takes. retrieval: also roxford5k: rparis6k: met: amstertime: copydays: with a
            folder, as published. segmentation: train/ and val/, each with images/ and masks/, or ADE20K, Cityscapes,
            Pascal VOC. depth: train/ and val/, each with images/ and depth/, or NYUv2, KITTI, SUN RGB-D
            with --head; on a CPU both take the quick protocol, --protocol linear is the published one. foreground:
            images/ and masks/, or PNGs with an alpha channel. tracking: DAVIS 2017, YouTube-VOS, MOSE; or a folder of
            frames or a video file with --mask, a PNG of its first frame. matching: SPair-71k, NAVI, or a list of pairs
            with points: pairs.jsonl or .csv, lines of image_a, image_b, points_a, points_b. discovery: Pascal VOC,
            COCO, a folder with images/ and masks/, or a table of boxes: boxes.csv, lines of path, x0, y0, x1, y1.
            detection: the same, with train/ and val/, and a column label; LVIS, labels of YOLO (data.yaml), and COCO-O
            with --head.
        tests: linear: further sets that the head is measured on as it is, whatever --data takes, one or several words:
            imagenet-r:/data/imagenet-r imagenet-c:/data/imagenet-c.
        out: file that receives the numbers as JSON.
        save: folder that receives the model's own numbers in full and the head that was trained, or the masks and
            overlays of every frame, of a detector a page and its baselines; the same command again continues an
            interrupted training or tracking. A folder holds one evaluation of one model.
        heads: of attention, for weights that do not say it, such as a bare file of a width that no release has.
        baselines: also measure the untrained network and the raw pixels; not with --head, which fits one model.
        device: auto, cpu, cuda or mps.
        processes: that share the features of images; left out, one per GPU of this machine, or as torchrun has started.
            What looks at patches takes one device, its training too.
    """
    model, data, settings = check_written(model), str(data), {**settings, **named}
    settings |= {"tests": _each(tests)} if tests else {}
    module = evaluations.find(task)
    config = configuration.override(module.Config(data=data), settings)
    if out is not None:
        check_result(Path(out), json=True)
    if save is not None:
        check_writable(Path(save), option="--save")
    alone = 1 if getattr(module, "PATCHES", False) else processes
    given = {"model": model, "data": data, "heads": heads, "baselines": baselines, "device": device}
    words = ranks.words("evaluate", task, settings=settings, **given)
    with ranks.sharing(words, processes=alone, device=device) as where:
        if not is_main():
            out = save = None
        backbone = load(model, heads=heads).to(where)
        backbone.name = called(model)
        config, rows = _measured(task, config, backbone, name=model, save=save, baselines=baselines)
        if out is not None:
            about = {"task": task, "config": configuration.to_plain(config), "weights": digest_of_model(backbone)}
            write_json(Path(out), about | {"results": rows})
    return rows


def evaluate_suite(
    *,
    models: tuple[str, ...],
    data: tuple[str, ...],
    out: Path,
    suite: str = "quick",
    tokens: int | None = None,
    baselines: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Measure many models on all data there is: OUT/results.json, results.md and index.html, a page.

    The same command again goes on after a stop, measures what failed, a further model or a further set, and nothing
    twice. What fails is a line in the results and stops nothing else.

    Args:
        models: what --model of an evaluation takes, one or several words: runs/a timm/NAME vits14.dinov2.
        data: a folder with published sets, folders of classes, masks, depths, videos and pairs in it; demo:fashion and
            the like beside it. Further words are further data.
        out: folder of the results, of one suite.
        suite: quick: ours, minutes on a CPU; classification, robustness, retrieval, dense: the protocols of DINOv3 on
            whatever there is; paper-v2, paper-v3: the tables of DINOv2 and DINOv3.
        tokens: patches of an image, 256 or 1024, so that models of patches of 14 and 16 are compared at the same
            number: 224 and 256 px, or 448 and 512; a model's own size if left out.
        baselines: also the first model untrained, raw pixels, and histograms of colours.
        device: auto, cpu, cuda or mps.
    """
    suites.find(suite)
    models, data = (tuple(map(str, (each,) if isinstance(each, str | Path) else each)) for each in (models, data))
    names = [name for word in models for name in ([word] if os.path.exists(word) else word.split(",")) if name]
    every = columns(list(dict.fromkeys(names)), baselines=baselines, tokens=tokens, device=devices.choose(device))
    found, lines = sets.find(data)
    for line in lines:
        warn(f"passed over: {line}")
    results = cells.run(suite, found, every, Path(out), tokens=tokens)
    for title in scores.titles(results):
        head, rows = scores.scores(results, title)
        print_rows(title, head, rows)
    for line in results["missing"]:
        info(f"missing: {line}")
    info(f"results {Path(out) / pages.FILE}")
    return results


INNER = {"suite": evaluate_suite}  # verbs of their own under this one


def _measured(
    task: str, config: Any, backbone: Backbone, *, name: str, save: Path | None, baselines: bool
) -> tuple[Any, dict[str, dict[str, float]]]:
    """Measure a model and its baselines, and print them; return the settled settings and a row of numbers of each."""
    module = evaluations.find(task)
    baselines = baselines and getattr(config, "head", None) is None
    rivals = evaluations.baselines(backbone, dense=getattr(module, "PATCHES", False)) if baselines else {}
    config = evaluations.settled(config, backbone)
    with nullcontext() if save is None else _kept(Path(save), task, backbone, config):
        rows = {name: evaluations.measure(task, backbone, config, None if save is None else Path(save))}
        if save is not None and task == "detection":
            for page in detectors.write_pages(Path(save)):
                info(f"page {page}")
    units = getattr(module, "UNITS", {})
    if units and not any(number.startswith(tuple(units)) for number in rows[name]):
        rivals = {}  # counts alone, such as of a video without truth: nothing to compare
    for rival, one in rivals.items():
        # hours, which a kill must not cost: that of other tasks is minutes
        where = Path(save) / BASELINES / rival if save is not None and task == "detection" else None
        rows[rival] = _rival(task, one.to(backbone.device), config, where)
    shown = {evaluations.NAMES.get(one, one): row for one, row in rows.items()}
    print_table(f"{task} on {config.data}", shown, units)
    if outdone(shown, units):
        warn(outdone(shown, units))
    return config, rows


def _rival(task: str, backbone: Backbone, config: Any, out: Path | None) -> dict[str, float]:
    """Measure a baseline; a folder keeps where it is, afterwards its numbers and what it learnt, but no features."""
    if out is None:
        return evaluations.measure(task, backbone, config)
    return kept_or_measured(task, backbone, config, out)


def kept_or_measured(task: str, backbone: Backbone, config: Any, out: Path) -> dict[str, float]:
    """Measure once: a folder that is finished says the numbers, and what another model or settings made is refused."""
    with _kept(out, task, backbone, config):
        if (out / STAMP).exists():
            numbers = read_json(out / f"{task}.json").items()
            return {name: value for name, value in numbers if isinstance(value, float)}
        found = evaluations.measure(task, backbone, config, out)
        shutil.rmtree(out / "features", ignore_errors=True)
    return found


def _each(words: Sequence[str] | str) -> list[str]:
    """Return sources that are given word by word, with commas between, or as a list in brackets."""
    found = list[str]()
    for word in (words,) if isinstance(words, str) else map(str, words):
        listed = configuration.parse_overrides([f"--tests={word}"])["tests"] if word.startswith("[") else None
        commas = [word] if os.path.exists(word) else word.split(",")
        found += map(str, commas if listed is None else listed)
    return [name for name in found if name]


@contextmanager
def _kept(save: Path, task: str, backbone: Backbone, config: Any) -> Iterator[None]:
    """Own a folder while an evaluation writes to it; afterwards it says what made it, and nothing else may."""
    with only_owner(save, option="--save"):
        settings = configuration.to_plain(config) | {"data": absolute(config.data)}
        stamp = {"task": task, "weights": digest_of_model(backbone), "settings": settings}
        if (save / STAMP).exists():
            again = "give the same again, or another folder"  # much that lies there is of other settings, too
            check_same(read_json(save / STAMP), stamp, place=save, instead=again)
        yield
        write_json(save / STAMP, stamp)


def explained(words: Sequence[str]) -> tuple[str, Any]:
    """Return the settings of the task that help is about."""
    return words[0], evaluations.find(words[0]).Config(data="DATA")
