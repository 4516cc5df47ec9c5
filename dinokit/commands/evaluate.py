"""`dinokit evaluate`: measure frozen features beside honest baselines: knn, retrieval, segmentation, ..."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinokit import config as configuration
from dinokit.checkpoints.load import load
from dinokit.commands.tables import print_table
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core import device as devices
from dinokit.core.files import check_result, check_writable, write_json
from dinokit.evaluation import base as evaluations
from dinokit.sources.source import absolute


def evaluate(
    task: str,
    *,
    model: str,
    data: str,
    out: Path | None = None,
    save: Path | None = None,
    baselines: bool = True,
    device: str = "auto",
    settings: Settings = NO_SETTINGS,
) -> dict[str, dict[str, float]]:
    """Measure frozen features, with the untrained architecture and the raw pixels beside them.

    Args:
        task: knn or retrieval; segmentation, depth, foreground, tracking or matching, which look at patches.
        model: a run folder, RUN/checkpoints/STEP, a weights file, a name that `dinokit models` lists; or a peer:
            timm/NAME, hf/NAME, open_clip/NAME.
        data: a folder with one folder per class, with train/ and val/ or test/ above them, a demo: name, or anything
            with labels that `pretrain` takes. segmentation: train/ and val/, each with images/ and masks/, or ADE20K,
            Cityscapes, Pascal VOC. depth: train/ and val/, each with images/ and depth/, or NYUv2, KITTI, SUN RGB-D
            with --head. foreground: images/ and masks/, or PNGs with an alpha channel. tracking: DAVIS 2017,
            YouTube-VOS, MOSE; or a folder of frames or a video file with --mask, a PNG of its first frame. matching:
            SPair-71k, NAVI, or a list of pairs with points (pairs.jsonl or .csv, see data/keypoints.py).
        out: file that receives the numbers as JSON.
        save: folder that receives the model's own numbers in full and the head that was trained, or the masks and
            overlays of every frame; the same command again continues an interrupted training or tracking.
        baselines: also measure random-init and raw-pixels; not with --head, which fits one model.
        device: auto, cpu, cuda or mps.
    """
    module = evaluations.find(task)
    config = configuration.override(module.Config(data=data), settings)
    backbone = load(model).to(devices.choose(device))
    backbone.name = absolute(model)
    if out is not None:
        check_result(Path(out))
    if save is not None:
        check_writable(Path(save))
    baselines = baselines and getattr(config, "head", None) is None
    rivals = evaluations.baselines(backbone, dense=task in evaluations.DENSE) if baselines else {}
    rows = {str(model): module.run(backbone, config, None if save is None else Path(save))}
    rows |= {name: module.run(rival.to(devices.choose(device)), config) for name, rival in rivals.items()}
    print_table(f"{task} on {data}", rows)
    if out is not None:
        write_json(Path(out), {"task": task, "config": configuration.to_plain(config), "results": rows})
    return rows


def explained(words: Sequence[str]) -> tuple[str, Any] | None:
    """Return the settings of the task that help is about."""
    return (words[0], evaluations.find(words[0]).Config(data="DATA")) if words else None
