"""`dinokit finetune`: train a whole network with a head on your labels, with the frozen result beside it"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from dinokit import config as configuration
from dinokit.checkpoints.load import called, check_written, load
from dinokit.checkpoints.store import MODEL, RunFolder, header
from dinokit.commands.evaluate import kept_or_measured
from dinokit.commands.tables import print_table
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core import device as devices
from dinokit.core.files import check_writable, digest_of_model, digest_of_weights, only_owner, write_atomic, write_json
from dinokit.core.messages import UserError, info, unknown_name, warn
from dinokit.dense.heads import load_head, save_head
from dinokit.evaluation import base as evaluations
from dinokit.finetuning import learning as training
from dinokit.models.features import Built
from dinokit.sources.source import absolute
from dinokit.suites import found as sets
from dinokit.suites.table import headline, lower_is_better

TASKS = {"classes": "linear", "instances": "linear", "masks": "segmentation", "depth": "depth"}  # by kind of data
FROZEN = "frozen."  # settings of the evaluation begin so
RESULT = "finetune.json"
EXAMPLE = ("training",)  # whose settings --help lists


def finetune(
    *,
    model: str,
    data: str,
    out: Path,
    task: str | None = None,
    channels: int | None = None,
    heads: int | None = None,
    device: str = "auto",
    settings: Settings = NO_SETTINGS,
    **named: Any,
) -> dict[str, dict[str, float]]:
    """Train a whole network with a head on labels: classes, masks or depths. The same command again goes on.

    First a head is trained on the frozen network, as by `dinokit evaluate`, and measured; then both are trained
    together and measured on the same images, in the same way. OUT is then a model (`--model OUT`), OUT/head its head
    (`dinokit predict --head OUT/head`), OUT/finetune.json the numbers of both.

    Settings that begin with `frozen.` are of the first head and of what is measured, as `dinokit evaluate TASK --help`
    lists them: --frozen.protocol, --frozen.test, --frozen.limit, --frozen.size.

    Args:
        model: a run folder, RUN/checkpoints/STEP, a weights file, or a name that `dinokit models` lists.
        data: a folder with one folder per class, with train/ and val/ above them, or train/ and val/, each with images/
            and masks/, or images/ and depth/; or anything else that `dinokit evaluate` takes for these tasks.
        out: the folder to write.
        task: linear (classes), segmentation or depth; left out, what the data holds.
        channels: of the images, where they are not the model's.
        heads: of attention, for weights that do not say it.
        device: auto, cpu, cuda or mps.
        settings: in Python, settings by dotted key: {"frozen.size": 256}.
        named: in Python, settings without a dot: lr=1e-4.
    """
    given, out, data = {**settings, **named}, Path(out), str(data)
    config = configuration.override(training.Config(), {k: v for k, v in given.items() if not k.startswith(FROZEN)})
    task, trained = task or _task_of(data), sorted(set(TASKS.values()))
    if task not in trained:
        if task not in evaluations.names():
            raise unknown_name("task", task, trained)
        raise UserError(f"--task {task} is not trained with the whole network; give {', '.join(trained)}")
    module = evaluations.find(task)
    own = {key.removeprefix(FROZEN): value for key, value in given.items() if key.startswith(FROZEN)}
    asked = configuration.override(module.Config(data=data, seed=config.seed), own)
    if getattr(asked, "shots", None) is not None or asked.head is not None or asked.protocol == "knn":
        raise UserError("shots, head and protocol knn train no head of all images to begin with; leave them out")
    check_writable(out)
    if RunFolder(out).config.exists() or ((out / MODEL).exists() and not (out / training.STATE).exists()):
        raise UserError(f"{out} holds another model, which would be written over; give another --out")
    backbone = load(check_written(model), channels=channels, heads=heads)
    if not isinstance(backbone, Built):
        raise UserError(f"{model} runs in another library and is not trained; give weights that are a file")
    backbone = backbone.to(devices.choose(device))
    backbone.name = called(model)
    asked = evaluations.settled(asked, backbone)
    with only_owner(out):
        return _trained(backbone, task, asked, config, out)


def _task_of(data: str) -> str:
    found, lines = sets.find([data])
    tasks = sorted({TASKS[one.kind] for one in found if one.kind in TASKS})
    if len(tasks) == 1:
        return tasks[0]
    why = (lines or ["it holds none of these"])[0]
    if tasks:
        why = f"it holds what is of {' and '.join(tasks)}; say which by --task"
    raise UserError(
        f"expected folders of two classes or more, images/ with masks/ or images/ with depth/ in {data}: {why}"
    )


def _trained(backbone: Built, task: str, asked: Any, config: training.Config, out: Path) -> dict[str, dict[str, float]]:
    """Measure the frozen network, train it, and measure it again."""
    before = {"weights": digest_of_model(backbone), "task": task, "data": absolute(asked.data)}
    module = evaluations.find(task)
    info("1. a head on the frozen network")
    kept_or_measured(task, backbone, asked, out / "frozen")
    alike = {name: getattr(asked, name) for name in module.MEASURING}  # for both, whatever the protocol says of its own
    judged = type(asked)(**alike | {"head": str(out / "frozen" / "head")})
    frozen = kept_or_measured(task, backbone, judged, out / "frozen" / "measured")
    head, about = load_head(out / "frozen" / "head")
    info("2. the network and its head")
    course = module.course(backbone, asked, batch_size=config.batch_size)
    stamp = before | {"frozen": configuration.to_plain(asked), "head": digest_of_weights(head)}
    training.finetune(backbone, head, course, config, folder=out, stamp=stamp)
    with write_atomic(out / MODEL) as temporary:
        weights = {name: value.detach().cpu().contiguous().clone() for name, value in backbone.state_dict().items()}
        about_model = header(backbone.config, backbone.pixels, step=config.iterations, licence=backbone.licence)
        save_file(weights, temporary, about_model)
    backbone.name = called(out)
    save_head(out / "head", head, replace(about, model=backbone.name, digest=digest_of_model(backbone)))
    numbers = evaluations.measure(task, backbone, replace(judged, head=str(out / "head")))
    rows = {"finetuned": numbers, "frozen": frozen}
    write_json(out / RESULT, before | {"settings": configuration.to_plain(config), "results": rows})
    print_table(f"{task} on {asked.data}", rows, module.UNITS)
    best = headline(task, numbers)
    if (numbers[best] > frozen[best]) == lower_is_better(best) and numbers[best] != frozen[best]:
        warn(f"the frozen network has the better {best}; keep it, or try a lower --lr or fewer --iterations")
    info(f"model {out / MODEL} · head {out / 'head'} · numbers {out / RESULT}")
    info(f"next: dinokit predict --head {out / 'head'} --data IMAGES --out FOLDER")
    return rows


def explained(words: Sequence[str]) -> tuple[str, Any]:
    """Return the settings of a training."""
    return words[0], training.Config()
