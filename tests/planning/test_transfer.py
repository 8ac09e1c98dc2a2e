"""When a pretrained backbone is taken, and how it is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from planning_cases import headers_of, index_of, planned
from safetensors.torch import save_file

from tintype.errors import ConfigError
from tintype.planning import plan_data, plan_training
from tintype.planning.transfer import DEFAULT_BACKBONE

PHOTOS = ([(640, 480), (480, 640), (500, 500)], ["RGB"] * 3)
SMALL = ([(32, 32)] * 3, ["RGB"] * 3)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights for the default backbone; planning reads their header alone."""
    folder = tmp_path / "weights"
    folder.mkdir()
    words = {"timm": DEFAULT_BACKBONE, "mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5", "input": "3,224,224"}
    words["kwargs"] = json.dumps({"pad_type": "same"})
    save_file({"conv.weight": torch.zeros(1)}, folder / f"{DEFAULT_BACKBONE}.safetensors", words)
    monkeypatch.setenv("TINTYPE_WEIGHTS", str(folder))
    return folder


def plan(images: tuple[list[tuple[int, int]], list[str]], settings: dict[str, Any] | None = None) -> Any:
    return planned(*images, settings)


def test_photos_get_the_pretrained_network_where_there_are_weights(weights: Path) -> None:
    config = plan(PHOTOS)
    assert config.model.backbone == DEFAULT_BACKBONE
    assert config.model.backbone_arguments == {"pad_type": "same"}
    assert (config.data.image_size, config.data.color) == (224, "rgb")
    assert (config.model.freeze, config.fit.optimizer, config.fit.views) == ("all", "lbfgs", 1)
    assert config.augment.policy == "none"
    assert config.model.flip_average is False


@pytest.mark.parametrize(
    ("images", "settings"),
    [(SMALL, {}), (PHOTOS, {"model.weights": "none"}), (PHOTOS, {"model.name": "cats_dogs"}),
     (PHOTOS, {"model.layers": "gap"})],
)  # fmt: skip
def test_small_images_and_named_networks_do_not(weights: Path, images: Any, settings: dict[str, Any]) -> None:
    assert plan(images, settings).model.backbone is None


def test_photos_without_weights_are_learnt_from_scratch() -> None:
    config = plan(PHOTOS)
    assert config.model.backbone is None
    assert config.fit.optimizer == "adamw"


def test_grey_photos_become_colour_for_a_colour_network(weights: Path) -> None:
    assert plan((PHOTOS[0], ["L"] * 3)).data.color == "rgb"


def test_a_weights_file_names_its_network(weights: Path) -> None:
    file = weights / f"{DEFAULT_BACKBONE}.safetensors"
    config = plan(SMALL, {"model.weights": str(file)})
    assert config.model.backbone == DEFAULT_BACKBONE
    assert config.model.weights == str(file)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"optimizer": "lbfgs", "epochs": 1, "views": 1, "head_epochs": 0}),
        ({"fit.views": 4}, {"optimizer": "lbfgs", "views": 4}),
        ({"fit.epochs": 5}, {"optimizer": "adamw", "epochs": 5, "views": 1}),
        ({"model.head": "dense 8 relu"}, {"optimizer": "adamw", "epochs": 30}),
        ({"augment.policy": "photo"}, {"optimizer": "lbfgs", "views": 8}),
        ({"model.depth": 2}, {"optimizer": "adamw", "epochs": 10, "views": 8, "head_epochs": 1, "backbone_rate": 0.1}),
        ({"model.depth": 2, "model.head": "dense 8 relu"}, {"head_epochs": 3}),
        ({"model.depth": "all"}, {"optimizer": "adamw", "views": None, "head_epochs": 1}),
        ({"model.depth": "all", "fit.views": 4}, {"views": 1}),
        ({"model.freeze": "none", "model.weights": "none", "model.backbone": "resnet20"},
         {"optimizer": "adamw", "head_epochs": 0, "backbone_rate": 1.0}),
        ({"fit.feature_cache": False}, {"optimizer": "adamw", "views": None}),
    ],
)  # fmt: skip
def test_what_follows_from_what_is_set(weights: Path, settings: dict[str, Any], expected: dict[str, Any]) -> None:
    fit = plan(PHOTOS, settings).fit
    assert {name: getattr(fit, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fit.views": 1, "augment.policy": "photo"}, "--views 8"),
        ({"fit.views": 4, "augment.policy": "none"}, "all the same"),
        ({"fit.optimizer": "lbfgs", "model.depth": 2}, "freeze = all"),
        ({"fit.optimizer": "lbfgs", "model.head": "dense 8"}, "no head"),
        ({"model.weights": "auto", "model.name": "cats_dogs"}, "--backbone"),
        ({"model.backbone": "resnet999x"}, "resnet999x"),
        ({"model.backbone": "vgg16"}, "vgg16"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_remedy(weights: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(PHOTOS, settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{}, {"fit.views": 4}, {"model.depth": 2}, {"model.head": "dense 8 relu"}, {"model.depth": "all"}]
)
def test_a_resolved_plan_is_not_planned_again(weights: Path, settings: dict[str, Any]) -> None:
    config = plan(PHOTOS, settings)
    again = plan_training(plan_data(config, index_of(3), headers_of(*PHOTOS)), 2, 2000)
    assert again.config == config
    assert again.choices == ()
