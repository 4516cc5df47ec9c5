"""The detector: its attention against one with a bias that is made, its groups, its gradients, padding."""

from dataclasses import replace

import pytest
import torch

from dinokit.dense.detr import boxes as box
from dinokit.dense.detr.attention import Apart, Attend, Attention, BoxAttention
from dinokit.dense.detr.learning import judged
from dinokit.dense.detr.levels import by_fours, doubled, halved, squares
from dinokit.dense.detr.matching import Objects
from dinokit.dense.detr.network import Config, Detector, Maps
from dinokit.dense.detr.recipe import RECIPES
from dinokit.planning.traced import traced

SIZES = Config(
    width=8,
    classes=3,
    stride=4,
    dim=64,
    heads=4,
    hidden=32,
    box_hidden=64,
    encoder=1,
    decoder=2,
    finer=True,
    queries=5,
    many=4,
)


def detector(config: Config = SIZES) -> Detector:
    torch.manual_seed(0)
    network = Detector(config)
    for heads in [
        *network.heads,
        network.thing,
    ]:  # the last layer of deltas begins at zero, which would hide what they do
        torch.nn.init.normal_(heads.deltas[-1].weight, std=0.1)
    return network


def seen(*sizes: tuple[int, int]) -> Maps:
    draw = torch.Generator().manual_seed(1)
    maps = [torch.randn(8, rows, columns, generator=draw) for rows, columns in sizes]
    return Maps(maps, torch.tensor([[4.0 * columns, 4.0 * rows] for rows, columns in sizes]))


@pytest.mark.parametrize("images", [1, 2])
def test_box_attention_is_attention_with_the_bias_of_boxes(images: int) -> None:
    """Positions are those of all images, or of this one."""
    torch.manual_seed(0)
    attention = BoxAttention(16, heads=2, hidden=8)
    queries, tokens, places = torch.randn(images, 3, 16), torch.randn(images, 4, 5, 16), torch.randn(1, 4, 5, 16)
    boxes = torch.tensor([[[0.0, 0, 8, 8], [4, 2, 20, 16], [1, 1, 2, 2]]]).expand(images, -1, -1)
    hidden = torch.zeros(images, 4, 5, dtype=torch.bool)
    hidden[..., 4] = True
    found = attention(queries, boxes, tokens, places, 4, hidden)
    keys = tokens + places
    torch.testing.assert_close(attention(queries, boxes, tokens, places.expand_as(tokens), 4, hidden), found)
    q, k, v = attention.q(queries)[0], attention.k(keys)[0].flatten(0, 1), attention.v(tokens)[0].flatten(0, 1)
    heads = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        scores = q[:, part] @ k[:, part].T / 8**0.5
        for query in range(3):
            for row in range(4):
                for column in range(5):
                    left, top, right, bottom = boxes[0, query]
                    x, y = 4 * (column + 0.5), 4 * (row + 0.5)
                    along = attention.along(torch.stack([left - x, right - x]))[head]
                    down = attention.down(torch.stack([top - y, bottom - y]))[head]
                    scores[query, row * 5 + column] += along + down - (1e9 if column == 4 else 0)
        heads.append(scores.softmax(dim=1) @ v[:, part])
    torch.testing.assert_close(found[0], attention.out(torch.cat(heads, dim=1)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", [1, 2])
@pytest.mark.parametrize("groups", [[5], [3, 2]])
def test_attention_asks_and_compares_with_positions_and_finds_tokens_of_the_group(
    positions: int, groups: list[int]
) -> None:
    """softmax((t + p) Wq' (t + p) Wk' / sqrt d) t Wv' of each head, and gradients; a mask where there is one group."""
    torch.manual_seed(0)
    attention = Attention(16, heads=2)
    for weights in attention.parameters():
        torch.nn.init.normal_(weights, std=0.5)  # also biases
    tokens, position = torch.randn(2, 5, 16, requires_grad=True), torch.randn(positions, 5, 16, requires_grad=True)
    seen = torch.tensor([[True, True, True, True, False], [True] * 5])[:, None, None] if len(groups) == 1 else None
    block = torch.block_diag(*(torch.ones(count, count) for count in groups)).bool()
    q, k, v = attention.q(tokens + position), attention.k(tokens + position), attention.v(tokens)
    heads = []
    for part in (slice(0, 8), slice(8, 16)):
        scores = q[..., part] @ k[..., part].mT / 8**0.5  # [batch, query, query]
        allowed = block if seen is None else block & seen[:, 0]
        heads.append(scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1) @ v[..., part])
    wanted, found = attention.out(torch.cat(heads, dim=-1)), attention(tokens, position, seen, groups)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    given = [tokens, position, *attention.parameters()]
    found_grads, wanted_grads = (torch.autograd.grad(each.square().sum(), given) for each in (found, wanted))
    torch.testing.assert_close(found_grads, wanted_grads, atol=1e-3, rtol=1e-3)  # of float32 sums of 160 squares


def test_the_gradient_of_box_attention_is_that_of_autograd() -> None:
    """Of two images, of which the second is padded."""
    draw = torch.Generator().manual_seed(0)
    sizes = ((3, 4), (20, 4), (20, 4), (5, 3), (4, 3))  # q, k, v, along, down of two heads and a map 4 x 5
    given = [torch.randn(2, 2, *size, generator=draw, dtype=torch.float64).requires_grad_() for size in sizes]
    hidden = torch.stack([torch.zeros(20, dtype=torch.bool), torch.arange(20) % 5 == 4])
    assert torch.autograd.gradcheck(lambda *parts: Attend.apply(*parts, hidden), given)


def test_the_products_of_box_attention_are_counted() -> None:
    """Scores and what is found; scores again, and four for the gradient."""
    sizes = ((3, 8), (20, 8), (20, 8), (5, 3), (4, 3))  # q, k, v, along, down of two heads and a map 4 x 5
    given = [torch.randn(1, 2, *size, requires_grad=True) for size in sizes]
    with traced() as taken:
        found = Attend.apply(*given, None)
    with traced() as again:
        found.sum().backward()
    one = 2 * 2 * 3 * 20 * 8
    assert (taken.operations, again.operations) == (2 * one, 5 * one)


def test_a_projection_is_the_convolution_and_the_norm() -> None:
    network, maps = detector(), seen((4, 6)).maps[0]
    torch.testing.assert_close(network._projected(maps), network.project(maps[None])[0])


def test_the_gradient_of_what_boxes_add_is_that_of_autograd() -> None:
    draw = torch.Generator().manual_seed(0)
    ends, centres = torch.randn(2, 3, 2, generator=draw).double(), torch.tensor([0.5, 1.5]).double()
    given = [torch.randn(size, generator=draw).double().requires_grad_() for size in ((6, 2), (6,), (4, 6))]
    assert torch.autograd.gradcheck(lambda *parts: Apart.apply(ends, centres, *parts), given)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_a_level_is_halved_as_by_a_convolution(size: tuple[int, int]) -> None:
    """A row or column that is left over is left out."""
    step, level = torch.nn.Conv2d(3, 3, 2, stride=2), torch.randn(2, *size, 3)
    torch.testing.assert_close(halved(step, level), step(level.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_a_level_is_doubled_as_by_a_convolution_and_what_is_behind_it() -> None:
    """The places that one becomes follow each other, and so do their fields."""
    step, then, level = torch.nn.ConvTranspose2d(3, 5, 2, stride=2), torch.nn.Linear(5, 4), torch.randn(2, 4, 6, 3)
    found = doubled(step, then, level)
    wanted = then(step(level.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)).flatten(1, 2)  # row by row
    places = by_fours(torch.arange(8 * 12.0)[:, None].expand(-1, 4), 6)[:, 0].long()
    torch.testing.assert_close(found, wanted[:, places])
    row_by_row, _ = squares(8, 12, 4.0, 50.0)
    assert by_fours(row_by_row, 6)[:4].tolist() == [[0, 0, 4, 4], [4, 0, 8, 4], [0, 4, 4, 8], [4, 4, 8, 8]]


def test_every_place_of_every_level_proposes_from_its_field_and_a_square_about_it() -> None:
    """Of a map 4 x 6 at a stride of 4: 8 x 12 places of 2 pixels, 4 x 6 of 4, 2 x 3 of 8, and one of 16."""
    network = detector()
    with torch.no_grad():
        levels = list(network._levels(torch.zeros(1, 4, 6, 64)))
    wanted = ((2, 50, 8, 12), (4, 100, 4, 6), (8, 200, 2, 3), (16, 400, 1, 1))
    for (said, fields, about), (stride, side, rows, columns) in zip(levels, wanted, strict=True):
        count = rows * columns
        assert said.shape == (1, count, 64)
        corners = [[x * stride, y * stride] for y in range(rows) for x in range(columns)]
        assert sorted(fields[:, :2].tolist()) == sorted(corners)
        assert torch.equal(fields[:, 2:] - fields[:, :2], torch.full((count, 2), float(stride)))
        assert torch.equal(about[:, 2:] - about[:, :2], torch.full((count, 2), float(side)))
        assert torch.equal(about[:, 2:] + about[:, :2], fields[:, 2:] + fields[:, :2])


@pytest.mark.parametrize("place", [(0, 0), (0, 2), (1, 1)])
def test_what_stands_at_a_place_is_said_at_its_field_on_every_level(place: tuple[int, int]) -> None:
    network, (row, column) = detector(), place
    plain = torch.zeros(1, 2, 3, 64)
    other = plain.clone()
    other[0, row, column] = torch.randn(64, generator=torch.Generator().manual_seed(0))
    size = torch.tensor([[12.0, 8.0]])
    with torch.no_grad():
        fields = torch.cat([fields for _, fields, _ in network._levels(plain)])
        before, after = (network._proposals(each, None, size) for each in (plain, other))
    moved = (before.logits != after.logits)[0, :, 0]
    corner = torch.tensor([4 * column, 4 * row])
    within = ((fields[:, :2] < corner + 4) & (fields[:, 2:] > corner)).all(dim=1)
    assert within.sum() == (4 + 1 + (column < 2))  # a column is left over on the coarsest level
    assert torch.equal(moved, within)
    middles = before.references[0, :, :2] + before.references[0, :, 2:]
    torch.testing.assert_close(middles, fields[:, :2] + fields[:, 2:])


def test_weights_are_never_denormal_however_far_a_box() -> None:
    q, k, v = torch.zeros(1, 1, 1, 200), torch.zeros(1, 1, 200, 200), torch.eye(200)[None, None]
    found = Attend.apply(q, k, v, -torch.arange(200.0)[None, None, :, None], torch.zeros(1, 1, 1, 1), None)
    assert found[found > 0].min() > torch.finfo(torch.float32).tiny
    torch.testing.assert_close(found[0, 0, 0], (-torch.arange(200.0)).softmax(dim=0), atol=1e-20, rtol=1e-5)


def test_one_to_many_queries_change_nothing_of_the_others() -> None:
    network, images = detector(), seen((6, 5))
    _, alone = network.eval()(images)
    _, together = network.train()(images)
    assert together.logits.shape == (2, 1, 9, 3)
    torch.testing.assert_close(together.logits[:, :, :5], alone.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.boxes[:, :, :5], alone.boxes, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("finer", [False, True])
@pytest.mark.parametrize("sizes", [((4, 5), (9, 7)), ((7, 7), (8, 8)), ((3, 5), (6, 7)), ((2, 3), (4, 4))])
def test_an_image_beside_a_larger_one_is_answered_as_alone(
    sizes: tuple[tuple[int, int], tuple[int, int]], finer: bool
) -> None:
    """Padded levels have places that the image alone has not: they propose nothing."""
    network = detector(replace(SIZES, finer=finer)).eval()
    small, large = (seen(size) for size in sizes)
    places, alone = network(small)
    more, beside = network(Maps([small.maps[0], large.maps[0]], torch.cat([small.sizes, large.sizes])))
    assert (more.logits[:, 0] > -1e9).sum() == (places.logits > -1e9).sum()
    torch.testing.assert_close(beside.boxes[:, :1], alone.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(beside.logits[:, :1], alone.logits, atol=1e-4, rtol=1e-4)


def test_layers_look_forward_twice() -> None:
    """What a layer says moves its deltas and those of the layer before, as if autograd had them alone; none earlier."""
    network, images = detector(replace(SIZES, decoder=3)).train(), seen((6, 5))
    deltas = list[torch.Tensor]()
    for heads in network.heads:
        heads.deltas.register_forward_hook(lambda _, __, made: deltas.append(made))
    _, layers = network(images)
    draw, size = torch.randn(layers.boxes[2].shape, generator=torch.Generator().manual_seed(2)), images.sizes[:, None]
    found = torch.autograd.grad((layers.boxes[2] * draw).sum(), deltas, retain_graph=True, allow_unused=True)
    alone = [each.detach().requires_grad_() for each in deltas[1:]]
    left = box.inside(box.moved(layers.references[1], alone[0]), size)
    wanted = torch.autograd.grad((box.inside(box.moved(left, alone[1]), size) * draw).sum(), alone)
    assert not found[0].any()
    torch.testing.assert_close(list(found[1:]), list(wanted))
    assert all(each.abs().sum() > 0 for each in wanted)
    assert not layers.references.requires_grad
    first = network.heads[0].deltas[-1].weight
    (said,) = torch.autograd.grad(layers.logits[1:].sum(), first, allow_unused=True)
    assert said is None or not said.any()


def test_neither_the_bias_of_boxes_nor_the_scores_of_an_image_are_ever_held_whole() -> None:
    attention = BoxAttention(16, heads=4, hidden=8)
    queries, tokens = torch.randn(4, 200, 16), torch.randn(4, 40, 40, 16)
    scores = 4 * 200 * 1600 * 4  # bytes of [head, query, place] of an image, which the bias would take, too
    given = queries, torch.rand(4, 200, 4).cumsum(-1) * 16, tokens, tokens[:1], 4, None
    with torch.no_grad(), traced() as answered:
        attention(*given)
    assert answered.peak < scores
    with traced() as learnt:
        attention(*given).sum().backward()
    assert learnt.peak < 2 * scores  # of four images


def test_a_box_is_refined_from_where_the_last_layer_left_it() -> None:
    _, layers = detector().eval()(seen((6, 5)))
    wanted = box.inside(box.moved(layers.references[1], layers.deltas[1]), torch.tensor([[[20.0, 24.0]]]))
    torch.testing.assert_close(layers.boxes[1], wanted)
    torch.testing.assert_close(layers.references[1], layers.boxes[0])


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 1)])
def test_smallest_maps_are_answered(size: tuple[int, int]) -> None:
    _, layers = detector().eval()(seen(size))
    assert layers.boxes.isfinite().all()


def test_maps_that_leave_no_queries_for_many_are_learnt_from() -> None:
    network = detector(replace(SIZES, finer=False, queries=5))
    recipe = replace(RECIPES["small"], queries=5, many=4)
    proposals, layers = network.train()(seen((1, 5)))
    assert layers.logits.shape[2] == 5  # as many as there are places
    objects = [Objects(torch.tensor([[2.0, 0, 14, 4]]), torch.tensor([1]))]
    found = judged(recipe)((proposals, layers), objects, 0)
    found.total.backward()
    assert found.terms["many"] == 0
    assert found.total.isfinite()
