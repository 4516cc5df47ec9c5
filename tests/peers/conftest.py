"""Tiny random models of other libraries, saved as those libraries save them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def scramble() -> Callable[[nn.Module], nn.Module]:
    """Give every weight a random value: initial values hide a forgotten norm or position."""

    def apply(model: nn.Module) -> nn.Module:
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, value in model.named_parameters():
                scale = "weight" in name and ("norm" in name or "ln_" in name)
                value.copy_(0.2 * torch.randn(value.shape, generator=draw) + scale)
        return model.eval()

    return apply


@pytest.fixture
def images() -> Callable[..., Tensor]:
    """Two images of noise."""

    def draw(*size: int) -> Tensor:
        return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))

    return draw
