"""Attentive probes: the stacked, shortened form is plain multi-head attention, and no probe sees another."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.core.files import digest_of_model
from dinokit.dense.attentive import MATRICES, AttentiveHead, Member, Probes, Scale, Training, heads_of
from dinokit.dense.heads import About, load_head, save_head
from dinokit.dense.sweep import falling, restore
from tests.conftest import MakeVit

MEMBERS = [Member(lr=lr, weight_decay=decay) for lr in (1e-3, 5e-3) for decay in (1e-3, 1e-1)]
CPU = torch.device("cpu")


def tokens_of(images: int = 6, count: int = 5, dim: int = 8, *, seed: int = 0) -> Tensor:
    return torch.randn(images, count, dim, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def probes_of(tokens: Tensor, members: list[Member] = MEMBERS, *, iterations: int = 20, classes: int = 3) -> Probes:
    training = Training(iterations=iterations, seed=0)
    return Probes(members, Scale.of([tokens]), classes=classes, training=training, device=CPU)


def plain(probes: Probes, place: int, dim: int) -> nn.Module:
    """The same probe made of torch's own attention."""
    value = {name: each[place].detach() for name, each in probes.values.items()}
    attention = nn.MultiheadAttention(dim, heads_of(dim), batch_first=True)
    attention.load_state_dict(
        {
            "in_proj_weight": torch.cat([torch.eye(dim), value["key"].flatten(0, 1), value["value"].flatten(0, 1)]),
            "in_proj_bias": torch.cat([torch.zeros(2 * dim), value["offset"]]),
            "out_proj.weight": torch.eye(dim),
            "out_proj.bias": torch.zeros(dim),
        }
    )

    class Plain(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            tokens = probes.scale(tokens)
            query = value["query"].flatten().expand(len(tokens), 1, dim)
            seen = attention(query, tokens, tokens)[0][:, 0]
            normed = F.layer_norm(seen, (dim,), value["gain"], value["shift"])
            return F.linear(normed, value["weight"], value["bias"])

    return Plain()


@pytest.mark.parametrize("dim", [8, 128])
def test_the_stacked_probes_are_plain_multi_head_attention(dim: int) -> None:
    tokens, labels = tokens_of(dim=dim), torch.tensor([0, 1, 2, 0, 1, 2])
    probes = probes_of(tokens)
    for step in range(3):
        probes.step(tokens, labels, step=step)
    assert heads_of(128) == 2
    for place in range(len(MEMBERS)):
        # float32, in another order of sums
        assert torch.allclose(probes.logits(tokens)[place], plain(probes, place, dim)(tokens), atol=1e-4)


def test_a_head_is_one_probe_of_the_sweep_also_after_a_file(tmp_path: Path, make_vit: MakeVit) -> None:
    tokens, backbone = tokens_of(), make_vit()
    probes = probes_of(tokens)
    probes.step(tokens, torch.tensor([0, 1, 2, 0, 1, 2]), step=0)
    head = AttentiveHead.of(probes, 2)
    save_head(tmp_path, head, About("attentive", "x", digest_of_model(backbone), details={"classes": ["a", "b", "c"]}))
    again, _ = load_head(tmp_path)
    with torch.no_grad():
        for one in (head, again):
            assert torch.allclose(one(tokens), probes.logits(tokens)[2], atol=1e-6)
    assert torch.equal(again.probabilities(tokens).argmax(dim=1), probes.logits(tokens)[2].argmax(dim=1))


def test_a_step_is_that_of_torchs_adamw_on_matrices_that_alone_decay() -> None:
    tokens, labels = tokens_of(), torch.tensor([0, 1, 2, 0, 1, 2])
    probes, own = probes_of(tokens), probes_of(tokens)
    place, member = 3, MEMBERS[3]
    groups = [
        {"params": [own.values[name] for name in own.values if name in MATRICES], "weight_decay": member.weight_decay},
        {"params": [own.values[name] for name in own.values if name not in MATRICES], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=member.lr)
    for step in range(5):
        for group in optimiser.param_groups:
            group["lr"] = member.lr * falling(step, own.training.iterations)
        optimiser.zero_grad()
        own.losses(tokens, labels).sum().backward()
        optimiser.step()
        probes.step(tokens, labels, step=step)
    for name, value in probes.values.items():
        assert torch.allclose(value[place], own.values[name][place], atol=1e-5), name


def test_a_probe_is_what_it_is_alone_and_one_that_diverges_stays_alone() -> None:
    tokens, labels = tokens_of(), torch.tensor([0, 1, 2, 0, 1, 2])
    together = probes_of(tokens, [*MEMBERS, Member(lr=1e30, weight_decay=0.0)])
    alone = probes_of(tokens, MEMBERS[1:2])
    for step in range(8):
        together.step(tokens, labels, step=step)
        alone.step(tokens, labels, step=step)
    assert together.finite().tolist() == [True] * 4 + [False]
    for name, value in alone.values.items():
        assert torch.allclose(value[0], together.values[name][1], atol=1e-5), name


def test_the_order_of_tokens_says_nothing() -> None:
    tokens = tokens_of()
    probes = probes_of(tokens)
    turned = tokens[:, torch.randperm(5, generator=torch.Generator().manual_seed(1))]
    assert torch.allclose(probes.logits(tokens), probes.logits(turned), atol=1e-5)


def test_a_training_goes_on_from_its_state_to_the_bit() -> None:
    tokens, labels = tokens_of(), torch.tensor([0, 1, 2, 0, 1, 2])
    whole, cut = probes_of(tokens), probes_of(tokens)
    for step in range(4):
        whole.step(tokens, labels, step=step)
        if step == 1:
            restore(cut, [[each.clone() for each in group] for group in whole.state()])
    for step in (2, 3):
        cut.step(tokens, labels, step=step)
    assert all(torch.equal(whole.values[name], cut.values[name]) for name in whole.values)


def test_channels_have_mean_0_and_variance_1_whatever_they_had_and_flat_ones_are_0() -> None:
    tokens = tokens_of(40) * torch.logspace(-5, 3, 8) + 7
    tokens[..., 2] = 5.1
    scaled = Scale.of([tokens[:3], tokens[3:]])(tokens).flatten(0, 1)
    wanted = torch.ones(8)
    wanted[2] = 0
    assert torch.allclose(scaled.mean(dim=0), torch.zeros(8), atol=0.05)  # 1e-5 beside 7 has two digits in float32
    assert torch.allclose(scaled.std(dim=0, correction=0), wanted, atol=0.05)


def test_attention_finds_what_one_token_alone_says() -> None:
    """The class stands in one token of sixteen, at a random place, which another channel marks."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(256, 16, 8, generator=draw)
    tokens[..., 0] = 0
    labels = torch.randint(2, (256,), generator=draw)
    where = torch.randint(16, (256,), generator=draw)
    tokens[torch.arange(256), where, 0] = 6
    tokens[torch.arange(256), where, 1] = 2.0 * (2 * labels - 1)
    probes = probes_of(tokens, [Member(lr=5e-3, weight_decay=1e-3)], iterations=150, classes=2)
    for step in range(150):
        part = torch.randint(256, (64,), generator=draw)
        probes.step(tokens[part], labels[part], step=step)
    assert (probes.logits(tokens)[0].argmax(dim=1) == labels).float().mean() > 0.99
