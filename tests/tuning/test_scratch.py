"""The space of networks from scratch."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from tintype.config import RunConfig
from tintype.models import zoo
from tintype.planning import Plan, plan_training
from tintype.tuning.scratch import ScratchSpace
from tintype.tuning.space import Images

GREY, COLOUR, PHOTOS = Images(28, 1, 55_000, 10), Images(64, 3, 9_000, 20), Images(128, 3, 800, 2)


def drawn(space: ScratchSpace, count: int) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [dict(space.draw(study.ask()).settings) for _ in range(count)]


def started(space: ScratchSpace, number: int) -> dict[str, Any]:
    study = optuna.create_study()
    study.enqueue_trial(dict(space.first()[number]))
    trial = study.ask()
    settings = dict(space.draw(trial).settings)
    assert trial.params == dict(space.first()[number]), "it says every parameter, and no other"
    return settings


def planned(settings: dict[str, Any], images: Images) -> RunConfig:
    color = "grey" if images.channels == 1 else "rgb"
    config = RunConfig().replace({"data.image_size": images.size, "data.color": color, **settings})
    return plan_training(Plan(config, ()), images.classes, images.training).config


@pytest.mark.parametrize("images", [GREY, COLOUR, PHOTOS])
def test_every_candidate_is_a_run(images: Images) -> None:
    space = ScratchSpace(images, "no weights")
    for settings in drawn(space, 12):
        config = planned(settings, images)
        assert config.model.layers == settings["model.layers"]
        assert config.fit.learning_rate == settings["fit.learning_rate"]
        assert config.augment.flip_horizontal is (images.channels == 3 and settings["augment.policy"] != "none")
        assert not {"fit.epochs", "fit.steps_per_epoch", "data.image_size"} & settings.keys()


def test_a_search_varies_everything_that_a_recipe_has() -> None:
    seen = drawn(ScratchSpace(COLOUR, ""), 30)
    for setting in ("model.layers", "augment.policy", "fit.optimizer", "fit.batch_size", "fit.schedule", "fit.ema"):
        assert len({settings.get(setting) for settings in seen}) > 1, setting
    assert any(settings.get("augment.zoom") not in (None, 0.25) for settings in seen), "strengths differ"


@pytest.mark.parametrize("images", [COLOUR, PHOTOS])
def test_the_first_candidate_has_the_recipe_of_a_plain_run(images: Images) -> None:
    settings, usual = started(ScratchSpace(images, ""), 0), planned({}, images)
    ours = planned(settings, images)
    assert ours.fit.model_dump() == usual.fit.model_dump() | {"epochs": ours.fit.epochs}
    assert ours.augment == usual.augment
    if images.training >= 1_000:
        assert ours.model.layers == zoo.default_layers(images.size, images.channels, images.training, images.classes)


@pytest.mark.parametrize("images", [GREY, COLOUR, PHOTOS])
def test_the_first_candidates_are_complete_and_differ(images: Images) -> None:
    space = ScratchSpace(images, "")
    begun = [started(space, number) for number in range(len(space.first()))]
    assert len({str(settings) for settings in begun}) == len(begun) >= 4
    assert [settings["fit.optimizer"] for settings in begun] == ["adamw"] * (len(begun) - 1) + ["sgd"]


def test_a_rate_grows_with_the_batch() -> None:
    space, rates = ScratchSpace(COLOUR, ""), {}
    for optimizer in ("adamw", "sgd"):
        for batch in (32, 128):
            study = optuna.create_study()
            study.enqueue_trial({**space.first()[0], "fit.optimizer": optimizer, "fit.batch_size": batch})
            rates[optimizer, batch] = space.draw(study.ask()).settings["fit.learning_rate"]
    assert rates["adamw", 128] / rates["adamw", 32] == pytest.approx(2, rel=0.01)
    assert rates["sgd", 128] / rates["sgd", 32] == pytest.approx(4)
    assert rates["sgd", 128] == 0.1


def test_what_the_user_chose_is_left_alone() -> None:
    fixed = frozenset({"fit.optimizer", "fit.batch_size", "augment.policy", "model.name"})
    for settings in drawn(ScratchSpace(COLOUR, "", fixed), 5):
        assert not fixed & settings.keys()
        assert "model.layers" not in settings
        assert not any(name.startswith("augment.") for name in settings)
    space = ScratchSpace(COLOUR, "", frozenset({"model.name"}))
    assert not any(name.startswith("network.") for parameters in space.first() for name in parameters)
