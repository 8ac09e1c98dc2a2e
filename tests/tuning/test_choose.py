"""Which space suits which images and which weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from planning_cases import headers_of, index_of

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.models.pretrained import WeightsSource
from tintype.planning import plan_data
from tintype.tuning import choose
from tintype.tuning.choose import choose_space, given_settings
from tintype.tuning.ownspace import OwnSpace, Range
from tintype.tuning.scratch import ScratchSpace
from tintype.tuning.space import Images
from tintype.tuning.transferspace import TransferSpace

PHOTO_NET, SMALL_NET = "mobilenetv2_100", "resnet20_cifar10"


def source_of(name: str, size: int) -> WeightsSource:
    return WeightsSource(Path(f"{name}.safetensors"), name, {}, size, (0.5,), (0.5,), "here")


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> list[WeightsSource]:
    """The weights on this machine."""
    there = [source_of(PHOTO_NET, 224), source_of(SMALL_NET, 32)]
    monkeypatch.setattr(choose, "backbones_at_hand", lambda: tuple(there))
    return there


def chosen(
    side: int, mode: str = "RGB", own: OwnSpace | None = None, color: float | None = None, **settings: Any
) -> Any:
    wanted = RunConfig().replace({name.replace("__", "."): value for name, value in settings.items()})
    index, headers = index_of(100), headers_of([(side, side + 10)] * 100, [mode] * 100)
    # A backbone is as it was planned where the user named one; its weights are no matter here.
    plan = SimpleNamespace(config=wanted)
    if wanted.model.backbone is None and wanted.model.weights in (None, "none"):
        plan = SimpleNamespace(config=plan_data(wanted, index, headers).config)
    cache = SimpleNamespace(index=index, widths=headers.widths, heights=headers.heights, modes=headers.modes)
    statistics = SimpleNamespace(width=side, height=side + 10, color=float(mode == "RGB") if color is None else color)
    data: Any = SimpleNamespace(
        plan=plan, cache=cache, split=SimpleNamespace(train=np.arange(80)), statistics=statistics
    )
    return choose_space(data, wanted, own)


def test_photos_stand_on_what_was_made_for_photos(weights: list[WeightsSource]) -> None:
    space = chosen(300)
    assert isinstance(space, TransferSpace)
    assert space.backbones == (PHOTO_NET,)
    assert PHOTO_NET in space.reason
    assert space.policies == ("light", "photo")


def test_small_colour_images_stand_on_whatever_is_near_their_size(weights: list[WeightsSource]) -> None:
    assert chosen(64).backbones == (PHOTO_NET, SMALL_NET)
    assert chosen(32).backbones == (SMALL_NET,), "enlarged seven times they would be slow"
    assert chosen(64, data__image_size=32).backbones == (SMALL_NET,)


@pytest.mark.parametrize(
    ("side", "mode", "settings", "reason"),
    [
        (28, "L", {}, "small grey images"),
        (300, "RGB", {"model__weights": "none"}, "no pretrained weights are wanted"),
        (300, "RGB", {"model__name": "resnet20"}, "the network is given"),
        (300, "RGB", {"model__layers": "gap"}, "the network is given"),
        (300, "RGB", {"model__backbone": SMALL_NET, "model__weights": "none"}, "the network is given"),
        (6, "RGB", {}, "made for images of about 6 px"),
    ],
)
def test_other_images_and_wishes_train_from_scratch(
    side: int, mode: str, settings: dict[str, Any], reason: str, weights: list[WeightsSource]
) -> None:
    space = chosen(side, mode, **settings)
    assert isinstance(space, ScratchSpace)
    assert reason in space.reason


def test_without_weights_photos_train_from_scratch_at_a_size_for_it(weights: list[WeightsSource]) -> None:
    weights.clear()
    space = chosen(300)
    assert isinstance(space, ScratchSpace)
    assert space.reason == "there are no pretrained weights on this machine"
    assert space.images == Images(128, 3, 80, 2)


def test_a_backbone_that_is_named_is_the_one(weights: list[WeightsSource]) -> None:
    space = chosen(28, "L", model__backbone=SMALL_NET)
    assert isinstance(space, TransferSpace)
    assert space.backbones == (SMALL_NET,)


def test_digits_in_files_for_colour_are_grey(weights: list[WeightsSource]) -> None:
    assert isinstance(chosen(28, "RGB", color=0.0), ScratchSpace)
    assert isinstance(chosen(28, "RGB", color=0.1), TransferSpace)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_small_grey_images_are_not_mirrored(mode: str, weights: list[WeightsSource]) -> None:
    space = chosen(28, mode, model__backbone=SMALL_NET)
    assert space.policies == (("digits",) if mode == "L" else ("light", "photo"))


def test_the_users_augmentation_is_the_only_one(weights: list[WeightsSource]) -> None:
    assert chosen(300, augment__policy="light").policies == ("light",)
    assert chosen(300, augment__policy="none").policies == ()


def test_what_transfer_varies_cannot_be_set(weights: list[WeightsSource]) -> None:
    with pytest.raises(ConfigError, match=r"model\.depth is what a search on pretrained networks varies"):
        chosen(300, model__depth=3)


def test_what_the_user_set_is_left_alone_from_scratch(weights: list[WeightsSource]) -> None:
    space = chosen(28, "L", fit__optimizer="sgd")
    assert isinstance(space, ScratchSpace)
    assert "fit.optimizer" in space.fixed


def test_an_own_space_is_taken_whatever_the_images(weights: list[WeightsSource]) -> None:
    own = OwnSpace("the file says so", {"fit.learning_rate": Range(0.1, 1.0, True, None, False)}, architectures=True)
    space = chosen(300, own=own)
    assert isinstance(space, OwnSpace)
    assert space.images == Images(128, 3, 80, 2), "not at the size that a backbone would want"
    with pytest.raises(ConfigError, match=r"fit\.learning_rate is searched"):
        chosen(300, own=own, fit__learning_rate=0.2)
    with pytest.raises(ConfigError, match=r"draws architectures, so model\.name"):
        chosen(300, own=own, model__name="resnet20")


def test_what_was_given_is_what_differs_from_the_defaults() -> None:
    changes = {"fit.epochs": 3, "heads.learning_rate": (0.1,), "data.source": "photos", "fit.momentum": 0.9}
    config = RunConfig().replace(changes)
    assert given_settings(config) == {"fit.epochs", "heads", "data.source"}


def test_a_frozen_backbone_leaves_heads_alone(weights: list[WeightsSource]) -> None:
    space = chosen(300, model__freeze="all")
    assert isinstance(space, TransferSpace)
    assert space.heads_only
    assert "heads alone" in space.reason
    with pytest.raises(ConfigError, match=r"model\.freeze is what a search"):
        chosen(300, model__freeze=3)
