from typing import Any

from dinokit.visuals.record import measurements, sentence


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
