import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dinokit.core.messages import UserError
from dinokit.visuals.report import write_report

MakeFolder = Callable[..., Path]

FILES = tuple(f"{split}/{label}/{i}.png" for split in ("train", "test") for label in "abc" for i in range(6))
VOID = {"meta", "img", "line", "circle", "polyline", "br", "link"}


def log(*, steps: int = 100) -> tuple[dict[str, object], ...]:
    lines: list[dict[str, object]] = [
        {"step": step, "time": 0.1 * step, "loss": 10 - step / 20, "loss/dino_global": 5 - step / 40, "lr": 1e-3,
         "grad_norm/backbone": 1.5, "images_per_second": 800.0, "data_wait": 0.1}
        for step in range(10, steps + 1, 10)
    ]  # fmt: skip
    for step, value in ((0, 40.0), (10, 60.0), (100, 90.0)):
        lines.append({"step": step, "evaluation": "knn", "model": "teacher", "top1@20": value, "queries": 18})
    lines.append({"step": 0, "evaluation": "knn", "model": "random-init", "top1@20": 40.0, "queries": 18})
    lines.append({"step": 0, "evaluation": "knn", "model": "raw-pixels", "top1@20": 55.0, "queries": 18})
    return tuple(lines)


class Reader(HTMLParser):
    """Checks that tags close in order, and collects what a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def read(run: Path) -> tuple[str, Reader]:
    page = write_report(run).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return page, reader


def test_a_finished_run_is_told_in_full_and_loads_nothing(make_run: MakeFolder, make_folder: MakeFolder) -> None:
    run = make_run(str(make_folder(*FILES)), lines=log())
    page, reader = read(run)
    assert page.count("<h2") == 7  # of what there is
    assert "35.0 points above raw pixels (55.0 %)" in page
    for stage in ("untrained", "step 10", "final"):
        assert f"<figcaption>{stage}</figcaption>" in page
    assert reader.tags.count("img") == 8 * 2 * 4 + 6 + 6 * 3 * 6
    assert "Of the query&#x27;s class are" in page
    assert "one of 3: a, b, c" in page.split("<nav", 1)[0]  # what the number counts
    assert all(value.startswith(("data:image/", "#")) for value in reader.loaded)
    assert page.count("<script") == 2  # the numbers, and what saves figures
    assert "@import" not in page
    assert not re.search(r"url\(", page)
    assert len(page) < 3_000_000


def test_health_is_said_at_the_head_and_drawn(make_run: MakeFolder) -> None:
    ill = "collapsing since step 20: one prototype of dino takes 97 % of the samples"
    looks = ({"step": 10, "loss": 2.0, "health/rank_cls": 30.0, "health/cost": 0.02, "verdict": "starting"},
             {"step": 20, "loss": 1.0, "health/rank_cls": 2.0, "health/cost": 0.01, "verdict": ill})  # fmt: skip
    page, _ = read(make_run("", steps=(), lines=looks))
    head, rest = page.split("<nav", 1)
    assert f'<p class="notice verdict">C{ill[1:]}.</p>' in head  # the last word, and an alarm
    assert "Was it healthy?" in rest
    drawn, folded = rest.split("All vital signs", 1)
    assert "<h3>Effective rank, CLS</h3>" in drawn
    assert "<h3>Cost of looking</h3>" in folded


def test_everything_from_files_is_escaped(make_run: MakeFolder, make_folder: MakeFolder) -> None:
    evil = '<script>alert("1")</script>'
    run = make_run(str(make_folder("a/0.png")), steps=(100,), lines=({"step": 5, "loss": 1.0, evil: 2.0}, *log()))
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("recipe: demo", f"recipe: '{evil}'"))
    (run / "environment.json").write_text(json.dumps({"command": evil, "processor": evil, evil: evil}))
    (run / "bad_images.jsonl").write_text(json.dumps({"key": evil, "reason": evil}) + "\n")
    page, reader = read(run)
    assert reader.tags.count("script") == 2
    assert page.count("&lt;script&gt;") >= 6


def test_images_that_could_not_be_read_are_listed(make_run: MakeFolder) -> None:
    run = make_run("", steps=(), lines=({"step": 100, "loss": 1.0},))
    reasons = ["truncated", "truncated", "empty file"] * 100
    lines = [json.dumps({"key": f"photo{i}.jpg", "reason": reason}) for i, reason in enumerate(reasons)]
    (run / "bad_images.jsonl").write_text("\n".join(lines))
    page, _ = read(run)
    assert "300 images were replaced by others in training." in page
    (run / "environment.json").write_text(json.dumps({"images": 750}))
    page, _ = read(run)
    assert "300 images were replaced by others in training, 40 % of the 750 seen." in page
    assert re.search(r"truncated</t[dh]>\s*<t[dh][^>]*>200<", page)
    assert "photo199.jpg" in page
    assert "and 100 more" in page


def test_an_interrupted_run_says_where_it_is(make_run: MakeFolder, make_folder: MakeFolder) -> None:
    page, _ = read(make_run(str(make_folder(*FILES)), steps=(0, 40), lines=log(steps=40)[:4]))
    assert "at step 40 of 100" in page
    assert "<figcaption>newest</figcaption>" in page
    assert "No measurement" in page


def test_data_without_labels_and_splits(make_run: MakeFolder, make_folder: MakeFolder) -> None:
    page, reader = read(make_run(str(make_folder(*(f"{i}.png" for i in range(9))))))
    assert reader.tags.count("img") > 8
    assert "class are" not in page
    assert 'class="same"' not in page


def test_a_single_image_has_no_neighbour(make_run: MakeFolder, make_folder: MakeFolder) -> None:
    read(make_run(str(make_folder("only.png"))))


@pytest.mark.parametrize("steps", [(), (0,), (100,)])
def test_any_number_of_checkpoints(make_run: MakeFolder, make_folder: MakeFolder, steps: tuple[int, ...]) -> None:
    page, reader = read(make_run(str(make_folder(*FILES)), steps=steps))
    assert ("no checkpoint yet" in page) == (not steps)
    assert ("img" in reader.tags) == bool(steps)


def test_a_last_checkpoint_without_weights_is_named_and_the_one_before_is_shown(
    make_run: MakeFolder, make_folder: MakeFolder
) -> None:
    run = make_run(str(make_folder(*FILES)), steps=(0, 10, 50, 100), lines=log())
    (run / "checkpoints" / "100" / "model.safetensors").unlink()
    page, reader = read(run)
    assert "There are no" not in page
    assert page.count("Step 100 is left out: ") == 2  # of the patches, and of the neighbours
    assert "The newest model is that of step 50." in page
    assert "<figcaption>final</figcaption>" not in page
    assert reader.tags.count("img") == 8 * 2 * 4 + 6 + 6 * 3 * 6


def test_where_no_checkpoint_can_be_opened_there_are_no_pictures(make_run: MakeFolder, make_folder: MakeFolder) -> None:
    run = make_run(str(make_folder(*FILES)), steps=(0, 100), lines=log())
    for step in ("0", "100"):
        (run / "checkpoints" / step / "model.safetensors").unlink()
    page, reader = read(run)
    assert "There are no pictures: " in page
    assert "img" not in reader.tags


def test_data_that_is_gone_is_said_and_the_rest_stays(make_run: MakeFolder) -> None:
    page, reader = read(make_run("/nowhere/photos", lines=log()))
    assert "There are no pictures: no folder /nowhere/photos" in page
    assert "img" not in reader.tags
    assert "points above raw pixels" in page


def test_a_run_that_names_no_data_does_not_take_the_current_folder(
    make_run: MakeFolder, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_folder("a/0.png", "b/0.png"))
    page, reader = read(make_run(""))
    assert "There are no pictures: no images are given" in page
    assert "img" not in reader.tags


def test_damaged_weights_are_said_and_the_rest_stays(make_run: MakeFolder, make_folder: MakeFolder) -> None:
    run = make_run(str(make_folder(*FILES)), lines=log())
    (run / "checkpoints" / "10" / "model.safetensors").write_bytes(b"cut")
    page, reader = read(run)
    assert "There are no neighbours" in page
    assert "Step 10 is left out" in page
    assert "img" in reader.tags
    assert "points above raw pixels" in page


def test_broken_lines_and_missing_files_are_passed_over(make_run: MakeFolder) -> None:
    run = make_run("", steps=(), lines=log())
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 105, "loss": NaN, "lr": Infinity, "data_wait": 1%s}\n' % ("0" * 400))
        file.write('{"step": 105, "evaluation": "knn", "model": "teacher", "top1@20": NaN}\n')
        file.write('{"step": 110, "loss": 1')
    (run / "environment.json").write_text('{"command"')
    read(run)
    (run / "metrics.jsonl").unlink()
    page, _ = read(run)
    assert "Nothing was logged yet" in page


def test_a_folder_that_is_no_run_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config.yaml"):
        write_report(tmp_path)


def test_every_task_has_its_curve_and_what_failed_is_named(make_run: MakeFolder) -> None:
    lines: list[dict[str, object]] = [
        {"step": step, "evaluation": "segmentation", "model": "teacher", "data": "/pairs", "mIoU": 30.0 + step}
        for step in (10, 0)
    ]
    lines += [{"step": 10, "evaluation": "depth", "model": "teacher", "RMSE": 0.5, "unit": "m", "lr": 0.01}]
    lines += [{"step": 10, "evaluation": "linear", "model": "teacher", "failed": "killed by <SIGKILL>"}]
    page, _ = read(make_run("", steps=(), lines=(*log(), *lines)))
    for part in (
        "segmentation mIoU on /pairs over training",
        "segmentation mIoU on /pairs 40.0 %: 10.0 points above the same model untrained (30.0 %)",
        "depth RMSE 0.5 m",
        "linear, step 10",
        "killed by &lt;SIGKILL&gt;",
    ):
        assert part in page


@pytest.mark.slow
@pytest.mark.parametrize(("quantities", "steps"), [(400, 300), (8, 12_000)])
def test_the_page_stays_small_whatever_was_logged(
    make_run: MakeFolder, make_folder: MakeFolder, quantities: int, steps: int
) -> None:
    names = [f"loss/student{place}/dino" for place in range(quantities)]
    lines = [{"step": step, **dict.fromkeys(names, step / 7)} for step in range(1, steps)]
    classes = {f"IoU/class {place}": 33.3 for place in range(1000)}
    lines += [
        {"step": step, "evaluation": task, "model": "teacher", "mIoU": 50.0 + step / 1000, **classes}
        for task in ("segmentation", "foreground")
        for step in range(0, steps, steps // 10)
    ]
    lines += [{"step": step, "evaluation": "knn", "model": "teacher", "top1@20": 50.0} for step in range(steps)]
    run = make_run(str(make_folder(*(f"{label:03d}/0.png" for label in range(300)))), lines=tuple(lines))
    page, _ = read(run)
    assert len(page.encode()) < 10_000_000
