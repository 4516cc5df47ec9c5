import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinokit.core.files import read_jsonl
from dinokit.core.messages import RunError, UserError
from dinokit.dense.curve import CURVE
from dinokit.dense.fit import Batch, Judged, Member, Training, fit
from dinokit.dense.maps import encode, frozen, predictor
from dinokit.dense.segmentation import Config, LinearHead, cross_entropy
from dinokit.models.pixels import PatchPixels

BACKBONE = PatchPixels(patch_size=4)
SHORT = Training(iterations=12, warmup=3, save_every=5)


def member(lr: float = 0.05, *, seed: int = 0) -> Member:
    return Member(LinearHead(Config(width=48, outputs=2, dropout=0.3), seed=seed), lr)


def drawn(step: int) -> tuple[Tensor, Tensor]:
    """Dark and light patches, which are classes 0 and 1."""
    draws = torch.Generator().manual_seed(step)
    classes = torch.randint(2, (2, 3, 3), generator=draws)
    targets = classes.repeat_interleave(4, 1).repeat_interleave(4, 2)  # [batch, height, width]
    noise = torch.rand(2, 3, 12, 12, generator=draws)
    return 0.6 * targets[:, None] + 0.4 * noise, targets


def sample(step: int) -> Batch:
    images, targets = drawn(step)
    with frozen(BACKBONE):
        return Batch(*encode(BACKBONE, images), targets)


def loss(values: Tensor, targets: Tensor, _: int) -> Tensor:
    return cross_entropy(values, targets)


def test_the_schedules_are_the_published_ones() -> None:
    training = Training(iterations=100, warmup=10)
    assert training.factor(0) == pytest.approx(1e-6)
    assert training.factor(5) == pytest.approx((1 - 0.5 * (1 - 1e-6)) * 0.95)
    assert training.factor(49) == pytest.approx(0.5)
    assert training.factor(99) == pytest.approx(0)
    poly = replace(training, schedule="poly")
    assert poly.factor(5) == training.factor(5)
    assert poly.factor(75) == pytest.approx(0.25)


def test_a_rate_that_is_held_falls_to_a_tenth_in_the_last_third() -> None:
    training = Training(iterations=1200, warmup=200, schedule="held")
    assert [training.factor(step) for step in (200, 799, 800, 1199)] == pytest.approx([1, 1, 1, 0.1], abs=1e-5)
    assert training.factor(100) == pytest.approx(0.5, abs=1e-5)  # a line, of which nothing is taken off
    assert training.factor(1000) == pytest.approx(0.55, abs=0.01)  # half way of a cosine from 1 to 0.1
    for steps in (1, 2, 3, 5):
        short = Training(iterations=steps, warmup=200, schedule="held")
        assert short.factor(steps - 1) == pytest.approx(0.1)


def test_one_cycle_is_that_of_torch() -> None:
    training = Training(iterations=100, warmup=30, schedule="one-cycle")
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1.0, total_steps=100, pct_start=0.3, div_factor=25, final_div_factor=1000
    )
    for step in range(100):
        assert training.factor(step) == pytest.approx(optimiser.param_groups[0]["lr"])
        assert training.betas(step)[0] == pytest.approx(optimiser.param_groups[0]["betas"][0])
        optimiser.step()
        cycle.step()


def test_a_head_learns_what_its_patches_say() -> None:
    chosen = member()
    fit(BACKBONE, [chosen], Training(iterations=60, warmup=5), sample=sample, loss=loss)
    images, targets = drawn(1000)
    with frozen(BACKBONE):
        logits = predictor(BACKBONE, chosen.head)(images)
    assert (logits.argmax(1) == targets)[:, 1::4, 1::4].all()


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = [member(), member(0.01, seed=1)]
    losses = fit(BACKBONE, whole, SHORT, sample=sample, loss=loss)

    def broken(step: int) -> Batch:
        if step == 7:
            raise KeyboardInterrupt
        return sample(step)

    with pytest.raises(KeyboardInterrupt):
        fit(BACKBONE, [member(), member(0.01, seed=1)], SHORT, sample=broken, loss=loss, folder=tmp_path)
    again = [member(seed=5), member(0.01, seed=6)]
    assert fit(BACKBONE, again, SHORT, sample=sample, loss=loss, folder=tmp_path) == losses
    for left, right in zip(whole, again):
        for name, value in left.head.state_dict().items():
            assert torch.equal(value, right.head.state_dict()[name]), name
    curve = [{name: line[name] for name in ("step", "loss")} for line in read_jsonl(tmp_path / CURVE)]
    fit(BACKBONE, [member(), member(0.01, seed=1)], SHORT, sample=sample, loss=loss, folder=tmp_path / "whole")
    assert curve == [{name: line[name] for name in ("step", "loss")} for line in read_jsonl(tmp_path / "whole" / CURVE)]
    assert [line["step"] for line in curve] == list(range(1, 13))


def test_members_of_a_sweep_do_not_feel_each_other() -> None:
    alone, together = member(), [member(), member(0.2, seed=3)]
    fit(BACKBONE, [alone], SHORT, sample=sample, loss=loss)
    fit(BACKBONE, together, SHORT, sample=sample, loss=loss)
    for name, value in alone.head.state_dict().items():
        assert torch.equal(value, together[0].head.state_dict()[name]), name


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    fit(BACKBONE, [member()], SHORT, sample=sample, loss=loss, folder=tmp_path)
    with pytest.raises(UserError, match="with other rates .*; delete"):
        fit(BACKBONE, [member(0.1)], SHORT, sample=sample, loss=loss, folder=tmp_path)
    with pytest.raises(UserError, match="with other data; delete"):
        fit(BACKBONE, [member()], SHORT, sample=sample, loss=loss, folder=tmp_path, stamp={"data": "x"})


@pytest.mark.parametrize("content", [[1, 2], {"step": 3}, "text"])
def test_a_state_that_is_something_else_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "training.pt")
    with pytest.raises(UserError, match="training.pt was made with other weights and training"):
        fit(BACKBONE, [member()], SHORT, sample=sample, loss=loss, folder=tmp_path)


def test_a_loss_that_is_not_finite_ends_the_training_by_name() -> None:
    with pytest.raises(RunError, match="step 0: the loss is nan at learning rate 0.05"):
        fit(BACKBONE, [member()], SHORT, sample=sample, loss=lambda values, *_: values.sum() * math.nan)


def test_terms_change_no_step_and_an_early_state_without_them_goes_on_as_any(tmp_path: Path) -> None:
    def explained(values: Tensor, targets: Tensor, step: int) -> Judged:
        total = loss(values, targets, step)
        return Judged(total, {"half": total.detach() / 2})

    plain, told = member(), member()
    fit(BACKBONE, [plain], SHORT, sample=sample, loss=loss, folder=tmp_path / "plain")
    fit(BACKBONE, [told], SHORT, sample=sample, loss=explained, folder=tmp_path / "told")
    for name, value in plain.head.state_dict().items():
        assert torch.equal(value, told.head.state_dict()[name]), name
    last = read_jsonl(tmp_path / "told" / CURVE)[-1]
    assert last["loss/half"] == pytest.approx(last["loss"] / 2, rel=1e-5)
    state = torch.load(tmp_path / "told" / "training.pt", weights_only=True)
    early = state | {"step": 10, "losses": [[each["loss"] for each in step] for step in state["losses"][:10]]}
    for group in early["optimiser"]["param_groups"]:
        group["fused"] = None
    torch.save(early, tmp_path / "told" / "training.pt")
    fit(BACKBONE, [member()], SHORT, sample=sample, loss=explained, folder=tmp_path / "told")
    assert [line["step"] for line in read_jsonl(tmp_path / "told" / CURVE)] == list(range(1, 13))
    again = torch.load(tmp_path / "told" / "training.pt", weights_only=True)
    assert [group["fused"] for group in again["optimiser"]["param_groups"]] == [True]  # one operation a step


def test_ignored_pixels_stay_in_the_mean() -> None:
    targets = torch.tensor([[[0, 255], [255, 255]]])
    logits = torch.zeros(1, 2, 2, 2)
    torch.testing.assert_close(cross_entropy(logits, targets), torch.tensor(math.log(2) / 4))
