"""What is chosen from the data, and that what the user set is left alone."""

from __future__ import annotations

import pytest
from planning_cases import headers_of, index_of, planned

from tintype.planning import plan_data, plan_training


def test_small_grey_images_keep_their_size_and_are_not_mirrored() -> None:
    config = planned([(28, 28)] * 4, ["L"] * 4, images=54_000)
    assert (config.data.image_size, config.data.color, config.data.resize) == (28, "grey", "stretch")
    assert config.augment.policy == "digits"
    assert config.model.flip_average is False
    assert config.fit.batch_size == 256


def test_photos_are_made_small_and_mirrored() -> None:
    config = planned([(640, 480), (480, 640), (500, 500)], ["RGB"] * 3)
    assert (config.data.image_size, config.data.color, config.data.resize) == (128, "rgb", "crop")
    assert config.augment.policy == "photo"
    assert config.model.flip_average is True


def test_wide_images_are_padded_not_cut() -> None:
    config = planned([(640, 480)] * 9 + [(1200, 300)], ["RGB"] * 10)
    assert config.data.resize == "pad"


def test_one_colour_image_makes_the_set_colour() -> None:
    assert planned([(64, 64)] * 3, ["L", "L", "RGB"]).data.color == "rgb"
    assert planned([(64, 64)] * 3, ["L", "I;16", "LA"]).data.color == "grey"


def test_a_zoo_network_brings_its_own_size() -> None:
    config = planned([(640, 480)] * 3, ["RGB"] * 3, {"model.name": "cats_dogs"})
    assert config.data.image_size == 180
    assert config.model.layers is None


def test_what_the_user_set_stays() -> None:
    given: dict[str, object] = {
        "data.image_size": 96, "data.resize": "stretch", "data.color": "grey", "fit.epochs": 3, "fit.batch_size": 7,
        "fit.learning_rate": 0.5, "fit.label_smoothing": 0.0, "augment.policy": "light", "augment.rotation": 2.0,
    }  # fmt: skip
    config = planned([(640, 480)] * 3, ["RGB"] * 3, given)
    assert (config.data.image_size, config.data.resize, config.data.color) == (96, "stretch", "grey")
    assert (config.fit.epochs, config.fit.batch_size, config.fit.learning_rate) == (3, 7, 0.5)
    assert (config.augment.policy, config.augment.rotation, config.fit.label_smoothing) == ("light", 2.0, 0.0)


@pytest.mark.parametrize("images", [10, 300, 2_000, 54_000, 1_000_000])
def test_every_amount_of_data_gets_a_sensible_recipe(images: int) -> None:
    config = planned([(640, 480)] * 3, ["RGB"] * 3, images=images)
    assert config.fit.epochs is not None
    assert config.fit.batch_size is not None
    assert 6 <= config.fit.epochs <= 120
    assert 8 <= config.fit.batch_size <= 64


def test_a_plan_is_planned_once() -> None:
    """A resumed run plans again from its resolved settings and must get the same."""
    config = planned([(640, 480)] * 3, ["RGB"] * 3)
    plan = plan_data(config, index_of(3), headers_of([(640, 480)] * 3, ["RGB"] * 3))
    again = plan_training(plan, 2, 2000)
    assert again.config == config
    assert again.choices == ()
