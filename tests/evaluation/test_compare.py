"""Networks on the same images: what is told apart, what is not, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from tintype.errors import DataError
from tintype.evaluation.compare import (
    Answers,
    accuracy_over_seeds,
    align,
    answers_of,
    compare_accuracy,
    compare_metrics,
    loss_over_seeds,
    require_same_images,
)
from tintype.evaluation.metrics import evaluate
from tintype.evaluation.stats import holm, wilson
from tintype.records import Predictions

CLASSES = ("a", "b", "c")


def predictions(right: NDArray[np.bool_], names: list[str] | None = None, sure: float = 0.8) -> Predictions:
    n = len(right)
    labels = np.arange(n) % 3
    probabilities = np.full((n, 3), (1 - sure) / 2)
    probabilities[np.arange(n), np.where(right, labels, (labels + 1) % 3)] = sure
    paths = tuple(names or [f"{number:04}.png" for number in range(n)])
    return Predictions("test", CLASSES, paths, labels.astype(np.int64), probabilities.astype(np.float32))


def answers(right: NDArray[np.bool_]) -> Answers:
    return answers_of(predictions(right))


def shuffled(item: Predictions, seed: int) -> Predictions:
    order = np.random.default_rng(seed).permutation(len(item))
    paths = tuple(item.paths[number] for number in order)
    return Predictions(item.split, item.classes, paths, item.labels[order], item.probabilities[order])


def test_answers_are_those_of_the_evaluation_in_any_order() -> None:
    item = predictions(np.random.default_rng(0).random(200) < 0.7)
    plain = evaluate(item)
    for judged in (answers_of(item), answers_of(shuffled(item, 1))):
        assert judged.is_right.mean() == pytest.approx(plain.accuracy.value)
        assert judged.losses.mean() == pytest.approx(plain.loss.value, rel=1e-6)
        assert judged.images == tuple((path, CLASSES[number % 3]) for number, path in enumerate(item.paths))


def test_images_without_a_label_do_not_count() -> None:
    item = predictions(np.array([True, False, True, True]))
    item.labels[1] = -1
    assert [path for path, _ in answers_of(item).images] == ["0000.png", "0002.png", "0003.png"]
    item.labels[:] = -1
    with pytest.raises(DataError, match="none of the 4 test images has a label"):
        answers_of(item)


def test_one_network_each_is_mcnemars_test() -> None:
    """The labs' B3: 27 against 21 right of 36 X-rays."""
    one, other = np.zeros(36, dtype=bool), np.zeros(36, dtype=bool)
    one[:27], other[:18], other[27:30] = True, True, True
    (found,) = compare_accuracy("vgg16", {"vgg16": [answers(other)], "inception_v3": [answers(one)]})
    assert found.difference.value == pytest.approx(6 / 36)
    assert found.p == pytest.approx(binomtest(9, 12, 0.5).pvalue)
    assert found.p == found.adjusted_p
    assert found.verdict == "cannot be told apart"
    assert not found.covers_seeds
    assert found.difference.low < 0 < found.difference.high


def test_many_comparisons_are_adjusted_together() -> None:
    random = np.random.default_rng(3)
    base = random.random(500) < 0.7
    better = base | (random.random(500) < 0.2)
    recipes = {"base": [answers(base)], "better": [answers(better)]}
    recipes |= {f"same {number}": [answers(base ^ (random.random(500) < 0.05))] for number in range(4)}
    found = {item.name: item for item in compare_accuracy("base", recipes)}
    alone = {item.name: item for item in compare_accuracy("base", recipes, adjust=False)}
    assert list(found) == ["better", "same 0", "same 1", "same 2", "same 3"]
    assert found["better"].adjusted_p == pytest.approx(5 * found["better"].p)
    assert found["better"].verdict == "better"
    assert all(found[name].adjusted_p >= alone[name].p for name in alone)
    (reverse,) = compare_accuracy("better", {"better": [answers(better)], "base": [answers(base)]})
    assert reverse.verdict == "worse"


def test_a_seed_that_fell_out_well_is_not_a_better_recipe() -> None:
    """Two recipes whose seeds differ by points: the best seed of one beats one of the other, the recipes are equal."""
    random = np.random.default_rng(1)
    hard = random.random(2_000)

    def network(accuracy: float) -> Answers:
        return answers(hard * 0.8 + random.random(2_000) * 0.2 < accuracy)

    one = [network(accuracy) for accuracy in (0.70, 0.74, 0.78)]
    other = [network(accuracy) for accuracy in (0.72, 0.75, 0.80)]
    (lucky,) = compare_accuracy("one", {"one": one[:1], "other": other[2:]})
    assert lucky.verdict == "better"
    (found,) = compare_accuracy("one", {"one": one, "other": other})
    assert found.covers_seeds
    assert found.verdict == "cannot be told apart"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda item: predictions(np.ones(29, dtype=bool)), r"\(30 and 29 images, only one has 0029\.png as c\)"),
        (lambda item: predictions(np.ones(30, dtype=bool), [f"{n:04}.jpg" for n in range(30)]), r"0000\.jpg as a"),
        (lambda item: Predictions("test", ("a", "b", "d"), item.paths, item.labels, item.probabilities), " as c"),
    ],
)
def test_other_images_or_labels_are_refused_in_one_line(change, words: str) -> None:  # type: ignore[no-untyped-def]
    item = predictions(np.ones(30, dtype=bool))
    recipes = {"one": [answers_of(item)], "other": [answers_of(change(item))]}
    with pytest.raises(DataError, match=f"one and other cannot be compared: .*{words}") as caught:
        compare_accuracy("one", recipes)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="network 1 and network 2"):
        accuracy_over_seeds([*recipes["one"], *recipes["other"]])


def test_classes_in_another_order_are_the_same_labels() -> None:
    item = predictions(np.random.default_rng(0).random(30) < 0.5)
    turned = Predictions("test", CLASSES[::-1], item.paths, 2 - item.labels, item.probabilities[:, ::-1])
    require_same_images({"one": answers_of(item), "other": answers_of(turned)})
    assert (answers_of(turned).is_right == answers_of(item).is_right).all()


def test_one_seed_has_the_interval_of_its_own_evaluation() -> None:
    item = predictions(np.random.default_rng(0).random(120) < 0.9)
    plain = evaluate(item)
    assert accuracy_over_seeds([answers_of(item)]) == plain.accuracy == wilson(round(plain.accuracy.value * 120), 120)
    found = loss_over_seeds([answers_of(item)])
    assert (found.low, found.value, found.high) == pytest.approx((plain.loss.low, plain.loss.value, plain.loss.high))


def test_aligned_predictions_stand_in_the_order_of_their_paths_and_of_the_first_ones_classes() -> None:
    item = predictions(np.random.default_rng(0).random(40) < 0.6)
    turned = Predictions("test", CLASSES[::-1], item.paths, 2 - item.labels, item.probabilities[:, ::-1])
    mixed = shuffled(turned, 4)
    mixed.labels[3] = -1
    unlabelled = mixed.paths[3]
    aligned = align({"one": item, "other": mixed}, common=True)
    for found in aligned.values():
        assert found.paths == tuple(path for path in item.paths if path != unlabelled)
        assert found.classes == CLASSES
    np.testing.assert_array_equal(aligned["one"].labels, aligned["other"].labels)
    np.testing.assert_array_equal(aligned["one"].probabilities, aligned["other"].probabilities)
    with pytest.raises(DataError, match=f"only one has {unlabelled} as"):
        align({"one": item, "other": mixed})


def test_classes_that_differ_are_refused() -> None:
    item = predictions(np.ones(30, dtype=bool))
    other = Predictions("test", ("a", "b", "d"), item.paths, item.labels, item.probabilities)
    with pytest.raises(DataError, match=r"their classes differ \(only one has c\)"):
        align({"one": item, "other": other}, common=True)


def test_metrics_are_adjusted_for_the_networks_and_know_which_way_is_better() -> None:
    random = np.random.default_rng(5)
    base = random.random(300) < 0.6
    items = {"base": predictions(base), "sure": predictions(base | (random.random(300) < 0.6), sure=0.9)}
    items["like"] = predictions(base ^ (random.random(300) < 0.03))
    found = compare_metrics("base", items, ("accuracy", "macro_f1", "loss"))
    assert list(found) == ["accuracy", "macro_f1", "loss"]
    for comparisons in found.values():
        assert [item.name for item in comparisons] == ["sure", "like"]
        assert [item.adjusted_p for item in comparisons] == pytest.approx(
            holm([item.p for item in comparisons]).tolist()
        )
        assert comparisons[0].verdict == "better"
    assert found["loss"][0].difference.value < 0
    assert found["accuracy"] == compare_accuracy("base", {name: [answers_of(item)] for name, item in items.items()})
