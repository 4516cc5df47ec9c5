"""How a rank executes networks: what it keeps for the backward pass, what it compiles, which rows of them it holds.

What a block's backward pass needs of its forward pass is kept or computed again (arXiv:1604.06174):

    none        all is kept
    selective   results of products and of attention are kept; norms, rotation, GELU, sums are computed again
    full        only what enters the block is kept: a third more time, the least memory

That changes no number: the random subsets of stochastic depth are drawn again from the same generator state. Compiling
changes rounding. On two CPU cores it saved 4 to 14 % of a ViT-S/16's step after 25 to 55 s of compiling (docs/log.md),
so it is off unless asked for.

Of a sharded network each rank keeps its rows of every tensor and sees the others' only while it uses them (FSDP2).
Weights, gradients, moments and the EMA teacher are cut along their first axis, as `torch.chunk` cuts. A block of the
backbone is whole while it computes, on a CPU with its neighbours up to MESSAGE; a head, from its use in the forward
pass until `release`, so that an objective may call it, or half of it and then read its weights, as often as it likes.
Gradients are averaged over ranks as they come, after every micro-batch: holding whole ones until the last would cost
what sharding saves.

With bf16 the matrices of the blocks travel in bfloat16, which autocast would make of them anyway; norms, LayerScales,
tokens and heads travel in float32. Gradients are summed in float32, the rows that are kept are float32.
Source: ZeRO (arXiv:1910.02054) stage 3; torch.distributed.fsdp.fully_shard.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal
from warnings import filterwarnings

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from dinokit.core import dist
from dinokit.core.messages import UserError, is_main
from dinokit.core.regions import Gathering, Scattering, halves
from dinokit.models.architecture import Network
from dinokit.models.block import Block
from dinokit.models.head import Head

MESSAGE = 1 << 22  # numbers of blocks whose rows are sent together on a CPU: each message costs a millisecond and more
OLDEST = (2, 9)  # torch that writes parts of tensors as safetensors
Recompute = Literal["none", "selective", "full"]

_aten = torch.ops.aten
_KEPT = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.convolution.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}


def execute(networks: Sequence[Network], how: Recompute, *, compiled: bool) -> None:
    """Make the blocks of the first network forget what their backward pass computes again; compile those of all."""
    set_recompute(networks[0], how)
    for block in (block for network in networks if compiled for block in network.residuals()):
        block.compile()  # a new size of images compiles again, at its first step


def set_recompute(network: Network, how: Recompute) -> None:
    """Make the blocks of a network forget what their backward pass will compute again."""
    if how == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in network.residuals():
        block.forward = partial(checkpoint, block.forward, **options)


def _policy(_context: Any, operation: Any, *_arguments: Any, **_options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def shard(network: nn.Module, device: torch.device, *, bf16: bool) -> None:
    """Keep this rank's rows of a network's parameters, in place; all ranks must call together.

    The parameters become new objects, so an optimiser is built afterwards. One network at a time may be used as a root:
    student, teacher and any frozen one each get a call of their own.

    Args:
        network: equal on all ranks; or on the meta device, to be materialised by `init.initialise` afterwards.
        device: where the rows live.
        bf16: whether the matrices of blocks travel in bfloat16.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST:
        raise UserError(f"runtime.sharding needs torch {OLDEST[0]}.{OLDEST[1]} or newer, got {torch.__version__}")
    # here: they take two seconds, and most commands never shard
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    # Features are views of tokens; nobody changes them in place, which is what the warning is about
    filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (dist.world_size(),))
    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    light = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for together in grouped(network, _together(device)):
        if bf16:
            few: list[nn.Module] = [
                part for block in together for part in (block.norm1, block.ls1, block.norm2, block.ls2)
            ]
            fully_shard(few, mesh=mesh, mp_policy=exact)
        fully_shard(list(together), mesh=mesh, mp_policy=light)
    root = fully_shard(network, mesh=mesh, mp_policy=exact, reshard_after_forward=False)
    if isinstance(network, Head):
        root.set_reshard_after_backward(False)
        register_fsdp_forward_method(network, "project")  # after which `prototypes` may be read


def share(networks: Sequence[nn.Module], device: torch.device) -> None:
    """Send the messages of sharded networks through memory, where all ranks are on one CPU; all must call together."""
    from torch.distributed.fsdp import FSDPModule

    if device.type != "cpu":
        return
    largest = max(_message(network, device) for network in networks)
    between = halves(largest * torch.float32.itemsize)
    if between is None:
        return
    gathering: Any = Gathering(between)  # Any: torch names the class that it takes in a private module alone
    scattering: Any = Scattering(between)
    for module in (module for network in networks for module in network.modules()):
        if isinstance(module, FSDPModule):
            module.set_custom_all_gather(gathering)
            module.set_custom_reduce_scatter(scattering)


def _together(device: torch.device) -> int:
    return MESSAGE if device.type == "cpu" else 0


def grouped(network: nn.Module, together: int) -> list[list[Block]]:
    """Divide blocks into those whose rows come and go together: as many as have so many numbers, at least one."""
    groups: list[list[Block]] = []
    room = 0
    for block in (module for module in network.modules() if isinstance(module, Block)):
        size = sum(each.numel() for each in block.parameters())
        if not groups or size > room:
            groups.append([])
            room = together
        groups[-1].append(block)
        room -= size
    return groups


def _message(network: nn.Module, device: torch.device) -> int:
    """Return how many numbers the largest message of a network has: of blocks, or of all that is in none."""
    groups = grouped(network, _together(device))
    blocks = [sum(_sent(each) for block in some for each in block.parameters()) for some in groups]
    return max([sum(map(_sent, network.parameters())) - sum(blocks), *blocks])


def _sent(parameter: nn.Parameter) -> int:
    """Return how many numbers a message has of a parameter: all ranks send equally many rows."""
    world = dist.world_size()
    return -(-parameter.shape[0] // world) * world * parameter.shape[1:].numel()


def release(networks: Iterable[nn.Module]) -> None:
    """Forget the other ranks' rows of sharded networks, so that `parameters()` are the own rows again."""
    from torch.distributed.fsdp import FSDPModule

    for network in networks:
        assert isinstance(network, FSDPModule)
        network.reshard()


def whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather sharded tensors on rank 0, on the CPU, one at a time; all ranks must call together, others get nothing."""
    gathered: dict[str, Tensor] = {}
    for name, value in state.items():
        full: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value  # all rows
        if is_main():
            gathered[name] = full.cpu()
    return gathered
