"""The grids are those of the papers."""

import pytest

from dinokit.core.messages import UserError
from dinokit.dense.protocols import PROTOCOLS, heads_of
from tests.conftest import MakeVit


def test_the_published_grids() -> None:
    sizes = {
        name: len(each.lr) * len(each.blocks or (4,)) * len(each.mean_patch) * len(each.weight_decay)
        for name, each in PROTOCOLS.items()
    }
    assert sizes == {"dino": 1, "dinov2": 52, "dinov3": 30, "quick": 12}
    # rates used at 1,024 images are four times those that are written for 256
    assert PROTOCOLS["dinov2"].lr[0] == pytest.approx(4e-5)
    assert (PROTOCOLS["dinov3"].lr[0], PROTOCOLS["dinov3"].lr[-1]) == pytest.approx((4e-4, 20))


def test_what_is_given_takes_the_place_of_the_protocol(make_vit: MakeVit) -> None:
    heads, layout = heads_of(make_vit(), PROTOCOLS["dinov3"], lr=(0.3, 0.1, 0.3), blocks=(2, 1), mean_patch=(True,))
    assert [head.lr for head in heads] == [0.1, 0.1, 0.3, 0.3] * 2
    assert [head.weight_decay for head in heads] == [0, 1e-5] * 4
    assert [head.reading.blocks for head in heads] == [1] * 4 + [2] * 4
    assert all(head.reading.mean_patch for head in heads)
    assert (layout.blocks, layout.dim, layout.mean) == (2, 16, 16)
    with pytest.raises(UserError, match="heads cannot read 9 blocks of this model"):
        heads_of(make_vit(), PROTOCOLS["quick"], blocks=(9,))
