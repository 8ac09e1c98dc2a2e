"""When an exported model counts as the same as its run."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tintype.errors import RunError
from tintype.serving.parity import (
    Agreement,
    compare,
    require_same_answers,
    require_same_maps,
    require_same_resize,
)


def rows(*values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_the_difference_of_an_image_is_its_largest() -> None:
    run = rows((0.5, 0.3, 0.2), (0.9, 0.1, 0.0), (0.6, 0.3, 0.1))
    exported = rows((0.49, 0.3, 0.21), (0.9, 0.1, 0.0), (0.63, 0.27, 0.1))
    found = compare(run, exported)
    assert (found.images, found.worst, found.near_ties, found.other_class) == (3, 2, 0, 0)
    assert found.largest == pytest.approx(0.03, abs=1e-6)
    assert found.median == pytest.approx(0.01, abs=1e-6)


def test_near_ties_may_change_places_and_nothing_else() -> None:
    run = rows((0.50003, 0.49997), (0.6, 0.4))
    swapped = compare(run, rows((0.49997, 0.50003), (0.6, 0.4)))
    assert (swapped.near_ties, swapped.other_class) == (1, 0)
    require_same_answers(swapped, "model.onnx")
    wrong = Agreement(images=2, largest=9e-5, median=0.0, near_ties=1, other_class=1, worst=0)
    with pytest.raises(RunError, match=r"gives another class than the run for 1 of 2 images"):
        require_same_answers(wrong, "model.onnx")


@pytest.mark.parametrize("far", [1.1e-4, float("nan")])
def test_a_probability_too_far_away_fails_in_one_line(far: float) -> None:
    run = rows((0.9, 0.1))
    with pytest.raises(RunError, match=r"^the export failed: a probability of model\.onnx") as caught:
        require_same_answers(compare(run, rows((0.9 + far, 0.1))), "model.onnx")
    assert "\n" not in str(caught.value)


def test_the_own_resize_has_wider_bounds_and_one_on_the_median() -> None:
    run = rows(*((0.9, 0.1),) * 9)
    one_off = run.copy()
    one_off[3] = (0.904, 0.096)
    require_same_resize(compare(run, one_off), "model.onnx")
    with pytest.raises(RunError, match="median"):
        require_same_resize(compare(run, run + rows((2e-4, -2e-4))), "model.onnx")
    one_off[3] = (0.906, 0.094)
    with pytest.raises(RunError, match=r"more than 0\.005"):
        require_same_resize(compare(run, one_off), "model.onnx")


def test_maps_are_judged_by_half_of_the_images() -> None:
    maps = np.random.default_rng(0).random((5, 3, 3), dtype=np.float32)
    noisy = maps.copy()
    noisy[:2] = 1 - noisy[:2]
    require_same_maps(maps, noisy)
    with pytest.raises(RunError, match="differ from the run's by"):
        require_same_maps(maps, maps + np.float32(0.01))
    with pytest.raises(RunError, match="another shape"):
        require_same_maps(maps, maps[:, :2])
    with pytest.raises(RunError, match="another shape"):
        require_same_maps(None, maps)
