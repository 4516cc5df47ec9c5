"""What continued pretraining begins with: a recipe, brought to the network that is adapted and to the way of doing it.

From a run of ours come its crops, masks and the sizes of its heads, so that they go on; any other model brings its
network and how it wants pixels, and gets new heads.
"""

from typing import Any

from dinokit import recipes
from dinokit.checkpoints.load import load
from dinokit.config import from_plain, to_plain
from dinokit.core.messages import UserError, unknown_name
from dinokit.models.features import Built
from dinokit.recipes.words import *
from dinokit.training.config import with_settings
from dinokit.training.course import Start
from dinokit.training.teacher import TeacherRun, teacher_run
from dinokit.training.trained import MASK, MASKED

METHODS = ("full", "lora", "last")
RANK = 8  # of LoRA
SMALL = 192  # width of tokens from which on a network is a published one
STAGE = "adapt"  # that of the recipes in which the backbone learns


def adapted(
    source: str, *, recipe: str = "", method: str = "full", channels: int | None = None, steps: int | None = None
) -> TrainConfig:
    """Return the settings with which a model is adapted.

    Args:
        source: a run, RUN/checkpoints/STEP, a weights file, or a model by name.
        recipe: adapt or adapt-small; empty: by the width of the network.
        method: full; lora: low-rank changes of its matrices; last: its last third of blocks.
        channels: of the images; None: of the model.
        steps: in which the backbone learns; None: the recipe's.

    Raises:
        UserError: if the model cannot be trained.
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    network = load(source, channels=channels) if channels is not None else load(source)
    if not isinstance(network, Built):
        raise UserError(f"{source} runs in another library, which trains it; adapt weights that are a file")
    name = recipe or ("adapt-small" if network.dim < SMALL else "adapt")
    plain = recipes.find(name)
    if STAGE not in plain.experiment.stages:
        raise UserError(f"{name} has no stage {STAGE}; give adapt or adapt-small, or train with dinokit pretrain")
    found = _of(plain, network, _run(source, network))
    config = replace(found, experiment=replace(found.experiment, start=Start(source=source)))
    settings: dict[str, Any] = {} if steps is None else {f"stages.{STAGE}.steps": steps}
    hides = config.experiment.data.masks is not None and not getattr(network.config, MASK)
    return with_settings(config, settings | _of_method(method, depth=network.config.depth, masked=hides))


def _of_method(method: str, *, depth: int, masked: bool) -> dict[str, Any]:
    """Return the settings of a way of learning; rates that fall with depth are for whole networks.

    Args:
        masked: whether a mask token is new, which has to be learnt.
    """
    if method == "full":
        return {}
    word = (f"lora:{RANK}" if method == "lora" else f"last:{max(1, depth // 3)}") + (MASKED if masked else "")
    place = f"stages.{STAGE}.changes.optim"
    return {f"{place}.trained": word, f"{place}.layer_decay": 1.0}


def _run(source: str, network: Built) -> TeacherRun | None:
    """Return the run of a model, if the network is as that trained it and its heads are there to go on with."""
    run = teacher_run(source)
    if run is None or run.step not in run.folder.steps(with_state=True):
        return None
    return run if run.experiment.backbone.channels == network.channels else None


def _of(config: TrainConfig, network: Built, run: TeacherRun | None) -> TrainConfig:
    """Bring a recipe to a network, and to the crops and heads of its run."""
    experiment, pixels = config.experiment, network.pixels
    before = None if run is None else run.experiment  # of the stage whose heads go on
    backbone = _trainable(network.config)
    patch = backbone.patch_size
    side = pixels.size or experiment.data.pixels.size or 224
    crops = experiment.data.views if before is None else before.data.views
    if before is None:  # as large a part of the picture as in the recipe
        share = side / (experiment.data.pixels.size or side)
        crops = replace(crops, global_size=round(share * crops.global_size), local_size=round(share * crops.local_size))
    crops = replace(
        crops,
        global_size=_up(crops.global_size, patch),
        local_size=_up(crops.local_size, patch),
        anchor_size=0,
        sizes=(),
    )
    masks = experiment.data.masks if before is None else before.data.masks
    hides = backbone.mask_token and masks is not None
    objectives = {
        name: _with_head(objective, None if run is None else run.experiment.objectives.get(name))
        for name, objective in experiment.objectives.items()
        if hides or name != "ibot"
    }
    data = replace(
        experiment.data,
        views=crops,
        masks=masks if hides else None,
        pixels=replace(pixels, size=side, white=None),
        white=pixels.white,
    )
    plain = to_plain(experiment.stages)
    plain[STAGE]["changes"]["data"]["views"]["anchor_size"] = crops.global_size
    return replace(
        config,
        experiment=replace(
            experiment,
            data=data,
            backbone=backbone,
            objectives=ObjectiveConfigs(objectives),
            stages=from_plain(Stages, plain),
        ),
    )


def _trainable(architecture: Any) -> Any:
    """Give a transformer a mask token; a network that was trained without one learns it. Nothing is dropped."""
    found = replace(architecture, mask_token=True) if architecture.whole_patches else architecture
    return replace(found, drop_path=0.0) if hasattr(found, "drop_path") else found


def _up(side: int, patch: int) -> int:
    """Return the nearest multiple of the patch that is not smaller."""
    return -(-side // patch) * patch


def _with_head(objective: Any, before: Any) -> Any:
    """Give an objective the head that it had in a run, whose weights then go on."""
    return replace(objective, head=before.head) if before is not None and hasattr(before, "head") else objective
