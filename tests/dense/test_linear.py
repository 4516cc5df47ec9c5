import csv
import json
from pathlib import Path

import pytest
import torch

from dinokit.core.messages import UserError
from dinokit.dense.grid import Grid, Layout, Loss, Member, Training
from dinokit.dense.heads import load_head, save_head
from dinokit.dense.linear import LinearHead, about_of, classify
from dinokit.features.extraction import extract
from dinokit.models.classifier import Reading
from dinokit.sources.source import open_source
from tests.conftest import MakeFolder, MakeVit

NAMES = ("ant", "bee, honey", "cat", "dog", "elk", 'fox "red"')
CPU = torch.device("cpu")


def made(loss: Loss = "ce", *, classes: int = 6) -> LinearHead:
    member = Member(reading=Reading(blocks=2, mean_patch=True), lr=1.0, weight_decay=0.0)
    training = Training(iterations=1, optimizer="sgd", loss=loss, seed=0)
    grid = Grid([member], Layout(2, 16, 16), classes=classes, training=training, device=CPU)
    grid.groups[0].weight.mul_(300)
    return LinearHead.of(grid, 0)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_a_head_that_was_kept_writes_the_table_of_its_probabilities(
    make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path, loss: Loss
) -> None:
    backbone, data = make_vit(), make_folder(*(f"{i}.png" for i in range(4)), "bad.png", tinted=False)
    (data / "bad.png").write_bytes(b"")
    save_head(tmp_path / "head", made(loss), about_of(backbone, made(loss), NAMES))
    head, about = load_head(tmp_path / "head")
    assert isinstance(head, LinearHead)
    written = classify(backbone, head, about, str(data), tmp_path / "out")
    assert (written.images, len(written.bad)) == (4, 1)
    rows = rows_of(tmp_path / "out" / "classes.csv")
    found = extract(backbone, open_source(str(data)), reading=Reading(blocks=2, mean_patch=True))
    logits = torch.from_numpy(found.vectors) @ made(loss).linear.weight.T + made(loss).linear.bias
    wanted = logits.softmax(dim=1) if loss == "ce" else logits.sigmoid()
    for row, values in zip(rows, wanted.tolist(), strict=True):
        order = sorted(range(6), key=lambda place: -values[place])[:5]
        names = [row["class"], *(row[f"class_{rank}"] for rank in range(2, 6))]
        assert names == [NAMES[place] for place in order]
        shares = [float(row["probability"]), *(float(row[f"probability_{rank}"]) for rank in range(2, 6))]
        assert shares == pytest.approx([values[place] for place in order], abs=2e-6)
    assert [row["key"] for row in rows] == [f"{i}.png" for i in range(4)]
    assert json.loads((tmp_path / "out" / "bad_images.jsonl").read_text())["key"] == "bad.png"
    changed = made(loss)
    changed.linear.bias.add_(1)
    with pytest.raises(UserError, match="made with other weights"):
        classify(backbone, changed, about, str(data), tmp_path / "out")


def test_two_classes_make_two_columns(make_vit: MakeVit, make_folder: MakeFolder, tmp_path: Path) -> None:
    backbone = make_vit()
    about = about_of(backbone, made(classes=2), ("a", "b"))
    classify(backbone, made(classes=2), about, str(make_folder("0.png", "1.png")), tmp_path / "out")
    assert list(rows_of(tmp_path / "out" / "classes.csv")[0]) == [
        "key", "class", "probability", "class_2", "probability_2"
    ]  # fmt: skip
