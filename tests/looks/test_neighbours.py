"""The nearest images are the nearest, and what is bright in a map is what the other image has too."""

from pathlib import Path

import numpy
import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.curation.pool import Pool
from dinokit.features.embed import embed, embedded, model_of
from dinokit.looks.field import Field, field
from dinokit.looks.neighbours import agreement, nearest, rows
from tests.conftest import MakeFolder
from tests.looks.test_looks import made, noise


def test_agreement_is_the_largest_cosine_with_any_patch_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = noise(5, 4, 6), noise(3, 7, 6, seed=1)
    monkeypatch.setattr("dinokit.looks.neighbours.CHUNK", 60)  # two or three patches at a time
    here, there = agreement(made(one), made(two))
    cosine = torch.cosine_similarity(one.double()[:, :, None, None], two.double()[None, None], dim=-1)
    torch.testing.assert_close(here, cosine.amax(dim=(2, 3)))
    torch.testing.assert_close(there, cosine.amax(dim=(0, 1)))


def test_neighbours_are_those_of_a_brute_search(make_run: MakeFolder, make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder(*(f"{kind}/{number}.png" for kind in "abc" for number in range(4)))
    pool = embed(make_run(str(root), steps=(0,)) / "checkpoints" / "0", str(root), tmp_path / "pool")
    assert isinstance(pool, Pool)
    backbone, source = model_of(pool), pool.images()
    images = [source.read(7), source.read(2)]
    vectors = embedded(pool, backbone, images)
    found = nearest(pool.vectors, vectors, k=5)
    kept = pool.vectors.read(0, 12).astype(float)
    cosine = vectors @ (kept / numpy.linalg.norm(kept, axis=1, keepdims=True)).T
    assert found.rows.tolist() == [0] * 5 + [1] * 5
    assert found.others.reshape(2, 5).tolist() == numpy.argsort(-cosine, axis=1, kind="stable")[:, :5].tolist()
    assert found.others.reshape(2, 5)[:, 0].tolist() == [7, 2]  # an image of the pool is nearest to itself

    def look(image: torch.Tensor, name: str) -> Field:
        return field(backbone, image, name=name, size=16)

    drawn = rows(pool.images(), [look(image, "query") for image in images], found, look)
    assert [len(row) for row in drawn] == [4] * 10
    assert drawn[0][3].caption == "3.png: cosine 1.000"
    assert numpy.array_equal(drawn[0][0].colours, drawn[0][3].colours)
    assert (drawn[0][1].colours == drawn[0][1].colours[0, 0]).all()  # every patch has its like: itself


def test_images_that_are_gone_are_said(make_run: MakeFolder, make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder("1.png", "2.png")
    pool = embed(make_run(str(root), steps=(0,)) / "checkpoints" / "0", str(root), tmp_path / "pool")
    assert pool is not None
    for file in root.iterdir():
        file.write_bytes(b"no image")
    found = nearest(pool.vectors, numpy.ones((1, pool.vectors.dim)), k=9)
    assert len(found) == 2
    with pytest.raises(UserError, match="no neighbour in .* can be read any more; embed it again"):
        rows(pool.images(), [made(noise(2, 2, 4))], found, lambda image, name: made(noise(2, 2, 4)))
