from pathlib import Path

import numpy as np
import pytest

from dinokit.visuals.tiles import Album
from tests.conftest import MakeFolder
from tests.curation.pools import make_pool, unit


@pytest.fixture
def photos(make_folder: MakeFolder) -> Path:
    return make_folder(*(f"{number}.png" for number in range(4)), tinted=False)


def test_what_is_gone_or_damaged_is_a_grey_tile_with_its_key_and_others_stay(tmp_path: Path, photos: Path) -> None:
    pool = make_pool(tmp_path / "pool", unit(np.eye(4)), data=str(photos))
    whole = Album(pool).tiles([0, 1, 2, 3], ["a", "b", "c", "d"], marked=[3])
    assert all("<img" in figure and f'alt="{row}.png"' in figure for row, figure in enumerate(whole))
    assert [figure.startswith('<figure class="marked">') for figure in whole] == [False, False, False, True]
    assert "<figcaption>c</figcaption>" in whole[2]
    (photos / "0.png").unlink()  # so that the others are at other places
    (photos / "2.png").write_bytes(b"damaged")
    found = Album(pool).tiles([3, 0, 2, 1], [""] * 4)
    assert [("<img" in figure) for figure in found] == [True, False, False, True]
    assert ">0.png</div>" in found[1]
    assert ">2.png</div>" in found[2]
    assert found[3].replace("<figcaption></figcaption>", "") == whole[1].replace("<figcaption>b</figcaption>", "")


def test_of_a_source_that_is_gone_all_are_grey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = make_pool(tmp_path / "pool", unit(np.eye(2)), data=str(tmp_path / "gone"))
    assert all('class="gone"' in figure for figure in Album(pool).tiles([0, 1], ["", ""]))
    assert "no pictures of" in capsys.readouterr().err
    assert 'class="gone"' in Album(None).tiles([5], ["reference"])[0]
