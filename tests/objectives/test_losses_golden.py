"""Our losses against numbers of the official DINOv3 repository (tests/golden/README.md).

Targets of the CLS token are made at temperature 0.07 (Sinkhorn-Knopp) and 0.05 (centring), those of patches at 0.06;
the student's temperature is 0.1. Tolerance 1e-5: float32 sums in another order.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dinokit.core.numbers import constant
from dinokit.objectives import assign, dino, ibot
from dinokit.objectives.gram import gram
from dinokit.objectives.koleo import koleo
from dinokit.objectives.prototypes import cross_entropy

GOLDEN = load_file(Path(__file__).parent.parent / "golden" / "losses.safetensors")


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_sinkhorn() -> None:
    close(assign.sinkhorn(GOLDEN["in.teacher_cls_logits"], temperature=0.07), GOLDEN["out.sinkhorn"])
    close(assign.sinkhorn(GOLDEN["in.teacher_patch_logits"], temperature=0.06), GOLDEN["out.ibot_sinkhorn"])


def test_centring_over_three_steps() -> None:
    logits = GOLDEN["in.teacher_cls_logits"]
    config = assign.Config(targets="centring", teacher_temperature=constant(0.05), centre_momentum=0.9)
    targets = assign.Targets(config, prototypes=logits.shape[1])
    for step in range(3):
        centred, statistics = targets(logits + 0.1 * step, step=step)
        close(centred, GOLDEN[f"out.centred{step}"])
        targets.fold(statistics)
    assert targets.centre is not None
    close(targets.centre, GOLDEN["out.centre_after"][0])


@pytest.mark.parametrize(
    ("crops", "apart", "pairs", "expected"),
    [("global", 2, 2, "dino_global"), ("global", 0, 4, "dino_global_with_diagonal"), ("local", 0, 6, "dino_local")],
)
def test_dino(crops: str, apart: int, pairs: int, expected: str) -> None:
    targets = GOLDEN["out.sinkhorn"].reshape(2, 6, 40)  # [teacher, batch, prototype]
    logits = GOLDEN[f"in.student_{crops}_logits"]  # [student, batch, prototype]
    summed, rows = dino.summed_targets(targets, students=len(logits), apart=apart)
    loss = cross_entropy(logits.flatten(0, 1), torch.eye(40), summed, temperature=0.1, rows=rows)
    close(loss.sum() / (6 * pairs), GOLDEN[f"out.{expected}"])


def test_ibot() -> None:
    logits, targets = GOLDEN["in.student_patch_logits"], GOLDEN["out.ibot_sinkhorn"]
    losses = cross_entropy(logits, torch.eye(logits.shape[1]), targets, temperature=0.1)
    close(ibot.mean_over_images(losses, masks=GOLDEN["in.mask"]), GOLDEN["out.ibot"])


def test_koleo() -> None:
    close(koleo(GOLDEN["in.koleo_features"]), GOLDEN["out.koleo"])


def test_gram() -> None:
    student, anchor = GOLDEN["in.gram_student"], GOLDEN["in.gram_teacher"]
    for form in ("patches", "dims"):
        close(gram(student, anchor, form=form), GOLDEN["out.gram_image"])
        close(gram(student.flatten(0, 1)[None], anchor.flatten(0, 1)[None], form=form), GOLDEN["out.gram_batch"])
    close(gram(student, anchor, clamp="both"), GOLDEN["out.gram_image_clamped"])
