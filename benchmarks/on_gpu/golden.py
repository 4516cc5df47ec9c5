"""Do the numbers of the official repositories (tests/golden) come out on this device, in float32 and in bfloat16?"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cosine_similarity

from dinokit.checkpoints.layouts.recognise import parts, recognise
from dinokit.models.convnets import ConvNeXt, ConvNeXtConfig
from dinokit.models.features import Backbone, Features
from dinokit.models.vit import VisionTransformer
from dinokit.objectives import assign, dino, ibot
from dinokit.objectives.gram import gram
from dinokit.objectives.koleo import koleo
from dinokit.objectives.prototypes import cross_entropy
from dinokit.training.step import Trainer
from dinokit.views.multicrop import Views
from on_gpu.experiments import official
from on_gpu.place import GOLDEN, Place, Row

SUMS = 5e-5  # float32 sums in another order; a wrong convention is off by 1e-4 at least
ROUNDED = 0.999  # cosine in bfloat16, at least
HEADS = {"dino_v1_vit": 3, "dinov2_vit_plain": 3, "dinov2_vit_registers": 3, "dinov2_vit_giant_style": 3}
NETWORKS = (*HEADS, "dinov3_vit_mlp", "dinov3_vit_swiglu", "dinov3_vit_swiglu64_nobias", "dinov3_convnext")
NONE = torch.empty(0)
INPUTS = {"": "in.images", "plain.": "in.images", "native.": "in.native", "masked.": "in.images"}


@torch.no_grad()
def networks(place: Place) -> Iterator[Row]:
    """Look at the golden images with every golden network."""
    apart, least = dict[str, float](), dict[str, float]()
    for name in NETWORKS:
        golden = {key: value.to(place.device) for key, value in load_file(GOLDEN / f"{name}.safetensors").items()}
        network = _built(name, golden).to(place.device)
        exact = [abs(found - wanted).max() for found, wanted in _pairs(network, golden, nullcontext())]
        region = torch.autocast(place.device.type, dtype=torch.bfloat16)
        rounded = [
            cosine_similarity(found.float(), wanted, dim=-1).min() for found, wanted in _pairs(network, golden, region)
        ]
        apart[name], least[name] = float(torch.stack(exact).max()), float(torch.stack(rounded).min())
    yield row("networks, float32", apart, worst=torch.max, limit=SUMS, unit="off by")
    yield row("networks, bfloat16", least, worst=torch.min, limit=ROUNDED, unit="cosine")


def losses(place: Place) -> Iterator[Row]:
    """Compute every golden target and loss."""
    found = load_file(GOLDEN / "losses.safetensors")
    golden = {key: value.to(place.device) for key, value in found.items()}
    apart = {name: float(abs(value - golden[f"out.{name.partition(',')[0]}"]).max()) for name, value in _losses(golden)}
    yield row("losses, float32", apart, worst=torch.max, limit=SUMS, unit="off by")


def step(place: Place) -> Iterator[Row]:
    """Take the golden step: losses and gradient norms of DINO, iBOT, KoLeo and Gram together."""
    golden = load_file(GOLDEN / "dinov3_step.safetensors")
    views = Views(
        golden["in.global_crops"].unflatten(0, (2, -1)),
        golden["in.local_crops"].unflatten(0, (4, -1)),
        golden["in.masks"].unflatten(0, (2, -1)),
        golden["in.gram_crops"].unflatten(0, (2, -1)),
    )
    for precision, of_loss, of_gradient in (("fp32", 2e-5, 5e-4), ("bf16", 2e-2, 0.1)):
        trainer = _official_trainer(golden, place.device, precision)
        report = trainer.step([views], step=0)
        wanted = float(golden["out.total"])
        apart = abs(report.values["loss"] / wanted - 1)
        norms = [
            abs(
                float(each.grad.norm()) / float(golden[f"out.gradnorm.{part}.{name.replace('register', 'storage')}"])
                - 1
            )
            for part, network in trainer.parts.items()
            for name, each in network.named_parameters()
        ]
        worst = float(torch.tensor(norms).max())
        odd = [f"off by more than {of_loss:g}"] * (not apart <= of_loss)  # NaN is
        odd += [f"gradients by more than {of_gradient:g}"] * (not worst <= of_gradient)
        yield Row(f"a step, {precision}", f"loss off by {apart:.1g}, gradients by {worst:.1g}", " and ".join(odd))


def _built(name: str, golden: dict[str, Tensor]) -> Backbone:
    weights = {key[2:]: value.cpu() for key, value in golden.items() if key.startswith("w.")}
    if name == "dinov3_convnext":
        network: Backbone = ConvNeXt(ConvNeXtConfig(dims=(16, 24, 32, 48), depths=(2, 2, 3, 2)))
        state = {key: value for key, value in weights.items() if not key.startswith("norms.")}  # a copy of norm
    else:
        config, state, *_ = recognise(weights, {}, file=name, heads=HEADS.get(name))
        network = VisionTransformer(config)
    network.load_state_dict(state)
    return network.eval()


def _pairs(
    network: Backbone, golden: dict[str, Tensor], region: AbstractContextManager[object]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what comes out beside what should."""
    for prefix, images in INPUTS.items():
        wanted = [name for name in ("cls", "registers", "patches") if golden.get(f"out.{prefix}{name}", NONE).numel()]
        if not wanted:
            continue
        options = {"masks": golden["in.masks"]} if prefix == "masked." else {}
        with region:
            found: Features = network(golden[images], **options)
        yield from ((getattr(found, name), golden[f"out.{prefix}{name}"]) for name in wanted)


def _losses(golden: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    targets = assign.sinkhorn(golden["in.teacher_cls_logits"], temperature=0.07)
    yield "sinkhorn", targets
    of_patches = assign.sinkhorn(golden["in.teacher_patch_logits"], temperature=0.06)
    yield "ibot_sinkhorn", of_patches
    unit = torch.eye(targets.shape[1], device=targets.device)
    for crops, apart, pairs in (("global", 2, 2), ("local", 0, 6)):
        logits = golden[f"in.student_{crops}_logits"]
        summed, rows = dino.summed_targets(targets.reshape(2, 6, 40), students=len(logits), apart=apart)
        found = cross_entropy(logits.flatten(0, 1), unit, summed, temperature=0.1, rows=rows)
        yield f"dino_{crops}", found.sum() / (6 * pairs)
    logits = golden["in.student_patch_logits"]
    found = cross_entropy(logits, torch.eye(logits.shape[1], device=logits.device), of_patches, temperature=0.1)
    yield "ibot", ibot.mean_over_images(found, masks=golden["in.mask"])
    yield "koleo", koleo(golden["in.koleo_features"])
    student, anchor = golden["in.gram_student"], golden["in.gram_teacher"]
    yield "gram_image, by patches", gram(student, anchor, form="patches")
    yield "gram_image, by dims", gram(student, anchor, form="dims")
    yield "gram_image_clamped", gram(student, anchor, clamp="both")


def _official_trainer(golden: dict[str, Tensor], device: torch.device, precision: str) -> Trainer:
    trainer = Trainer(replace(official(), precision=precision), device)
    weights = {name[2:]: value for name, value in golden.items() if name.startswith("w.")}
    anchor = {name.replace("gram.", "teacher.", 1): value for name, value in weights.items() if "gram." in name}
    assert trainer.anchor is not None
    trainer.anchor.load_state_dict(parts(anchor)["backbone"])
    for network in ("student", "teacher"):
        found = parts({f"teacher{name[7:]}": value for name, value in weights.items() if name.startswith(network)})
        getattr(trainer.backbone, network).load_state_dict(found["backbone"])
        for name in ("dino", "ibot"):
            getattr(trainer.objectives[name].head, network).load_state_dict(found[f"{name}_head"])
    return trainer


def row(name: str, found: dict[str, float], *, worst: Callable[..., Any], limit: float, unit: str) -> Row:
    """Judge the worst of some figures, by torch.max or torch.min, to which NaN is worse than any number."""
    value, place = (each.item() for each in worst(torch.tensor([*found.values()], dtype=torch.float64), dim=0))
    good = value <= limit if worst is torch.max else value >= limit
    return Row(name, f"{unit} {value:.6g} ({[*found][place]})", "" if good else f"expected {limit:g}")
