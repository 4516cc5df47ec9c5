"""What every plug-in found on disk must keep, whatever it computes.

Objectives: a new file in dinokit/objectives is covered the moment it exists. It needs an entry in one of the tables
below only if a field cannot be changed by its type alone.
"""

import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as group
from torch import Tensor

from dinokit.core.numbers import Schedule, constant
from dinokit.models.features import Features
from dinokit.models.head import Config as HeadConfig
from dinokit.objectives import base
from tests.ranks import on_ranks

OBJECTIVES = base.names()
DIM, BATCH, ROWS, COLUMNS = 16, 4, 2, 3

# (objective, field) -> a value that differs, where the type alone does not tell one
OTHER_VALUES: dict[tuple[str, str], Any] = {("ibot", "head"): None, ("koleo", "group"): 2}
# (objective, field) -> the settings under which the field is read
READ_UNDER: dict[tuple[str, str], dict[str, Any]] = {
    ("dino", "centre_momentum"): {"targets": "centring"},
    ("ibot", "centre_momentum"): {"targets": "centring"},
}
# Settings under which half the batch on each of two ranks equals the whole on one. Searching neighbours on each rank
# alone (group null) is another loss by definition. Centring of patches averages ranks, which equals the average of
# patches when every rank hides as many: so do the masks below.
SAME_ON_RANKS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"group": BATCH} if name == "koleo" else {}) for name in OBJECTIVES),
    ("koleo", {"group": BATCH // 2}),
    ("dino", {"targets": "centring"}),
    ("ibot", {"targets": "centring"}),
]


def tiny(name: str, **changes: Any) -> Any:
    """The defaults of an objective with heads that a test can afford."""
    config = base.find(name).Config()
    heads = [field.name for field in fields(config) if isinstance(getattr(config, field.name), HeadConfig)]
    small = {head: HeadConfig(hidden=16, bottleneck=8, prototypes=12) for head in heads}
    return replace(config, **(small | changes))


def build(name: str, config: Any) -> base.Objective:
    siblings = {} if name == "dino" else {"dino": build("dino", tiny("dino"))}
    objective: base.Objective = base.find(name).Objective(config, dim=DIM, seed=0, siblings=siblings)
    return objective


def features(views: int, *, rows: int, columns: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(views, BATCH, 2 + rows * columns, DIM, generator=generator)
    return Features(cls=tokens[:, :, 0], registers=tokens[:, :, 1:2], patches=tokens[:, :, 2:], grid=(rows, columns))


def inputs() -> base.Inputs:
    masks = torch.zeros(2, BATCH, ROWS * COLUMNS, dtype=torch.bool)
    masks[0, 0, :2] = masks[1, 1, 3:] = True  # 5 patches hidden in the first half of the batch
    masks[1, 2, :4] = masks[0, 3, 5:] = True  # and 5 in the second
    return base.Inputs(
        student_global=features(2, rows=ROWS, columns=COLUMNS, seed=1),
        student_local=features(3, rows=1, columns=2, seed=2),
        teacher_global=features(2, rows=ROWS, columns=COLUMNS, seed=3),
        anchor_global=features(2, rows=2 * ROWS, columns=2 * COLUMNS, seed=4),
        masks=masks,
    )


def each_tensor(given: base.Inputs, change: Callable[[Tensor], Tensor]) -> base.Inputs:
    """The inputs with every tensor changed; all begin with [view, batch]."""
    changed: dict[str, Any] = {}
    for field in fields(given):
        value = getattr(given, field.name)
        if isinstance(value, Features):
            changed[field.name] = Features(
                change(value.cls), change(value.registers), change(value.patches), grid=value.grid
            )
        elif value is not None:
            changed[field.name] = change(value)
    return base.Inputs(**changed)


def everything(name: str, config: Any) -> list[tuple[str, Tensor]]:
    """All that an objective lets one see in two steps: losses, weights, statistics and state."""
    objective = build(name, config)
    seen: list[tuple[str, Tensor]] = []
    for step in range(2):
        losses = objective(inputs(), step=step)
        objective.after_step(losses.statistics)
        seen += [*losses.terms.items(), *losses.statistics.items()]
        seen += [(term, torch.tensor(weight)) for term, weight in losses.weights.items()]
    return seen + [(key, value.clone()) for key, value in objective.state_dict().items()]


def differ(one: list[tuple[str, Tensor]], other: list[tuple[str, Tensor]]) -> bool:
    if [key for key, _ in one] != [key for key, _ in other]:
        return True
    return any(not torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True))


def other_value(name: str, field: str, value: Any) -> Any:
    if (name, field) in OTHER_VALUES:
        return OTHER_VALUES[name, field]
    hint = typing.get_type_hints(base.find(name).Config)[field]
    if typing.get_origin(hint) is typing.Literal:
        return next(choice for choice in typing.get_args(hint) if choice != value)
    if isinstance(value, Schedule):
        return constant(value.end / 2)
    if isinstance(value, HeadConfig):
        return replace(value, prototypes=value.prototypes + 1)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if isinstance(value, int) else value / 2
    pytest.fail(f"say in OTHER_VALUES what else {name}.{field} may be than {value!r}")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_configured_by_a_frozen_dataclass_with_defaults(name: str) -> None:
    config = base.find(name).Config()
    assert is_dataclass(config)
    with pytest.raises(AttributeError):
        config.weight = 2.0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_terms_are_finite_float32_scalars_with_a_weight_each(name: str) -> None:
    losses = build(name, tiny(name))(inputs(), step=0)
    assert losses.terms.keys() == losses.weights.keys() != set()
    for term in losses.terms.values():
        assert (term.shape, term.dtype) == ((), torch.float32)
        assert term.isfinite()
    assert not any(value.requires_grad for value in losses.statistics.values())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_reads_no_more_than_it_says_it_needs(name: str) -> None:
    needs = base.find(name).Objective.needs
    given = inputs()
    assert needs <= {field.name for field in fields(given)}
    unneeded = {field.name: None for field in fields(given) if field.name not in needs}
    objective = build(name, tiny(name))
    assert torch.equal(objective(replace(given, **unneeded), step=0).total, objective(given, step=0).total)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
def test_bfloat16_gives_finite_losses_and_gradients_close_to_float32(name: str, parameters: torch.dtype) -> None:
    expected = build(name, tiny(name))(inputs(), step=0).total
    objective = build(name, tiny(name)).to(parameters)
    for lent in getattr(objective, "borrowed", ()):
        lent.to(parameters)
    halved = each_tensor(inputs(), lambda x: x.bfloat16().requires_grad_() if x.is_floating_point() else x)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=parameters == torch.float32):
        losses = objective(halved, step=0)
    losses.total.backward()
    assert all(term.dtype == torch.float32 for term in losses.terms.values())
    # 8 bits of mantissa in the features and the head, divided by temperatures of 0.1 and 0.04
    torch.testing.assert_close(losses.total, expected, atol=0, rtol=0.05)
    for parameter in objective.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_reaches_the_student_and_never_the_teacher(name: str) -> None:
    objective = build(name, tiny(name))
    given = each_tensor(inputs(), lambda x: x.clone().requires_grad_() if x.is_floating_point() else x)
    objective(given, step=0).total.backward()
    for field in sorted(objective.needs - {"masks"}):
        side = getattr(given, field)
        gradients = [x.grad for x in (side.cls, side.registers, side.patches) if x.grad is not None]
        if field.startswith("student"):
            assert any(gradient.abs().sum() > 0 for gradient in gradients), field
        else:
            assert gradients == [], field
    for pair in objective.pairs().values():
        assert all(parameter.grad is not None for parameter in pair.student.parameters())
        assert all(parameter.grad is None for parameter in pair.teacher.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_forward_changes_nothing(name: str) -> None:
    objective = build(name, tiny(name))
    before = [(key, value.clone()) for key, value in objective.state_dict().items()]
    given = inputs()
    first, second = (objective(given, step=0) for _ in range(2))
    assert not differ(before, list(objective.state_dict().items()))
    assert not differ(list(first.terms.items()), list(second.terms.items()))
    assert not differ(_leaves(given), _leaves(inputs()))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_order_of_images_does_not_matter(name: str) -> None:
    objective = build(name, tiny(name))
    order = torch.tensor([2, 0, 3, 1])
    shuffled = objective(each_tensor(inputs(), lambda x: x[:, order]), step=0)
    for term, value in objective(inputs(), step=0).terms.items():
        torch.testing.assert_close(shuffled.terms[term], value)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_setting_changes_the_output_or_the_state(name: str) -> None:
    for field in fields(base.find(name).Config):
        config = tiny(name, **READ_UNDER.get((name, field.name), {}))
        changed = replace(config, **{field.name: other_value(name, field.name, getattr(config, field.name))})
        assert differ(everything(name, config), everything(name, changed)), f"{name}.{field.name} does nothing"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_plan_knows_its_head_and_a_distillation_whether_students_learn_by_it(name: str) -> None:
    config = tiny(name)
    seen = base.Seen(crops=2, locals=3, hidden=1.5, patches=ROWS * COLUMNS, dim=DIM)
    use = config.head_use(seen, siblings={"dino": tiny("dino")})
    assert (use is not None and use.owned) == bool(build(name, config).pairs())
    assert use is None or use.config == config.head
    assert config.operations(seen) >= 0
    of_students = config.for_students()
    assert of_students is None or type(of_students) is type(config)
    assert of_students is None or "anchor_global" not in base.find(name).Objective.needed(config)


def _leaves(given: base.Inputs) -> list[tuple[str, Tensor]]:
    leaves: list[tuple[str, Tensor]] = []

    def note(tensor: Tensor) -> Tensor:
        leaves.append((f"tensor {len(leaves)}", tensor))
        return tensor

    each_tensor(given, note)
    return leaves


def _outcome(name: str, changes: dict[str, Any], given: base.Inputs) -> list[Tensor]:
    """Losses, gradients and statistics, in this order."""
    objective = build(name, tiny(name, **changes))
    losses = objective(given, step=0)
    losses.total.backward()
    gradients = [p.grad for pair in objective.pairs().values() for p in pair.student.parameters() if p.grad is not None]
    return [*(term.detach() for term in losses.terms.values()), *gradients, *losses.statistics.values()]


def _with_gradient(given: base.Inputs) -> base.Inputs:
    return each_tensor(given, lambda x: x.detach().clone().requires_grad_() if x.is_floating_point() else x)


def _compare(rank: int, store: str, expected: list[list[Tensor]]) -> None:
    torch.set_num_threads(1)
    group.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    half = each_tensor(inputs(), lambda x: x.chunk(2, dim=1)[rank])
    for (name, changes), whole in zip(SAME_ON_RANKS, expected, strict=True):
        for mine, wanted in zip(_outcome(name, changes, _with_gradient(half)), whole, strict=True):
            mean = mine.clone()
            group.all_reduce(mean)
            # float32 sums in another order
            torch.testing.assert_close(mean / 2, wanted, atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    group.destroy_process_group()


def test_two_ranks_with_half_the_batch_equal_one_with_the_whole(tmp_path: Path) -> None:
    expected = [_outcome(name, changes, _with_gradient(inputs())) for name, changes in SAME_ON_RANKS]
    on_ranks(_compare, str(tmp_path / "store"), expected)
