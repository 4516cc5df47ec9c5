from typing import Any

from dinokit.visuals.record import failures, first_number, measurements, sentence


def line(model: str, step: int, value: float, **more: Any) -> dict[str, Any]:
    return {"step": step, "evaluation": "knn", "model": model, "top1@20": value, "queries": 2000} | more


def test_the_sentence_compares_with_both_baselines_in_points() -> None:
    (result,) = measurements([line("random-init", 0, 69.0), line("raw-pixels", 0, 81.1), line("teacher", 9, 84.2)])
    text = sentence(result)
    assert text.startswith("k-NN accuracy (k = 20) 84.2 %: 3.1 points above raw pixels (81.1 %) and 15.2 points above")


def test_a_loss_against_pixels_is_said_plainly() -> None:
    (result,) = measurements([line("random-init", 0, 69.0), line("raw-pixels", 0, 81.1), line("teacher", 9, 79.0)])
    assert "2.1 points below raw pixels" in sentence(result)
    assert "pixels themselves still works better" in sentence(result)


def test_a_difference_within_one_standard_error_is_none() -> None:
    # sqrt(0.81 * 0.19 / 2000) is 0.88 points
    (result,) = measurements([line("raw-pixels", 0, 81.0), line("teacher", 9, 81.7)])
    assert "level with raw pixels" in sentence(result)
    assert 0.8 < result.noise < 0.9


def test_the_teacher_before_its_first_step_is_the_untrained_model() -> None:
    (result,) = measurements([line("teacher", 0, 60.0), line("teacher", 9, 70.0)])
    assert result.baselines == {"random-init": 60.0}
    assert "10.0 points above the same model untrained" in sentence(result)


def test_the_newest_teacher_counts_whatever_the_order_of_lines() -> None:
    (result,) = measurements([line("teacher", 9, 70.0), line("teacher", 0, 60.0), line("teacher", 5, 65.0)])
    assert result.steps == (0, 5, 9)
    assert result.values[-1] == 70.0


def test_without_baselines_the_number_stands_alone() -> None:
    (result,) = measurements([line("teacher", 9, 70.0)])
    assert "stands alone" in sentence(result)


def test_k_20_is_the_headline_and_retrieval_follows() -> None:
    lines = [
        {"step": 1, "evaluation": "retrieval", "model": "teacher", "mAP": 30.0, "R@1": 20.0},
        line("teacher", 1, 70.0) | {"top1@10": 71.0},
    ]
    first, second = measurements(lines)
    assert (first.metric, second.metric) == ("top1@20", "mAP")
    assert measurements([{"step": 1, "evaluation": "knn", "model": "raw-pixels", "top1@20": 5.0}]) == []


def test_k_nn_is_followed_by_what_its_set_is_measured_by() -> None:
    assert first_number({"step": 9, "top5@10": 99.0, "per-class@10": 70.0, "per-class@20": 71.0}) == "per-class@20"
    assert first_number({"step": 9, "mAP@10": 60.0, "mAP@10/std": 1.0, "mAP@200": 50.0}) == "mAP@10"
    assert first_number({"step": 9, "best_k": 20}) == ""


def test_other_data_is_another_curve_and_is_named() -> None:
    lines = [line("teacher", 1, 70.0), line("teacher", 2, 50.0, data="others"), line("teacher", 2, 71.0)]
    own, other = measurements(lines)
    assert (own.values, other.values) == ((70.0, 71.0), (50.0,))
    assert other.title == "k-NN accuracy (k = 20) on others"


def test_of_an_error_less_is_better_and_its_unit_is_said() -> None:
    def of(model: str, step: int, error: float) -> dict[str, Any]:
        return {"step": step, "evaluation": "depth", "model": model, "RMSE": error, "unit": "m"}

    (result,) = measurements([of("raw-pixels", 0, 0.8), of("random-init", 0, 0.5), of("teacher", 9, 0.6)])
    assert sentence(result) == (
        "depth RMSE 0.6 m: 0.2 m below raw pixels (0.8 m) and 0.1 m above the same model untrained (0.5 m). Training "
        "has made the features worse than chance weights; see the loss curves for a collapse."
    )


def test_a_failure_counts_until_it_is_made_good() -> None:
    lines = [{"step": step, "evaluation": "knn", "model": "teacher", "failed": "no memory"} for step in (1, 2)]
    assert failures([*lines, line("teacher", 1, 70.0)]) == lines[1:]
    assert measurements(lines) == []


def test_the_images_of_what_learns_are_counted_too() -> None:
    (result,) = measurements([{"step": 1, "evaluation": "linear", "model": "teacher", "top1": 50.0, "test": 2500.0}])
    assert (result.metric, result.queries, result.noise) == ("top1", 2500, 1.0)


def test_intervals_are_shown_where_every_point_has_one() -> None:
    lines = [line("teacher", step, 70.0, interval=[68.0, 72.5]) for step in (1, 9)]
    assert measurements(lines)[0].intervals == ((68.0, 72.5), (68.0, 72.5))
    assert measurements([*lines, line("teacher", 5, 70.0)])[0].intervals == ()
    assert measurements([line("teacher", 5, 70.0, interval="none")])[0].intervals == ()
