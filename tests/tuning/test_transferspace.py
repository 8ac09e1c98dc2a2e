"""What is drawn for pretrained networks: settings that a run takes, groups that train together, backbones at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
import torch
from optuna.trial import FixedTrial
from safetensors.torch import save_file

from tintype.config import ModelConfig, RunConfig
from tintype.models.build import backbone_of, build_network
from tintype.models.graph import layers_of, traced
from tintype.planning import Plan, plan_training
from tintype.tuning import transferspace
from tintype.tuning.space import Candidate
from tintype.tuning.transferspace import FINE_TUNING, TransferSpace, backbones_at_hand, depth_of_share

BASE = {"data.image_size": 32, "data.color": "rgb", "model.weights": "auto"}
WORDS = {"mean": "0.5,0.4,0.3", "std": "0.1,0.2,0.3", "input": "3,32,32"}


def space(images: int = 400, policies: tuple[str, ...] = ("light", "photo")) -> TransferSpace:
    return TransferSpace(("resnet20", "resnet32"), images, policies, "they have weights here")


def drawn(made: TransferSpace, count: int = 120) -> list[Candidate]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [made.draw(study.ask()) for _ in range(count)]


def fixed(parameters: Mapping[str, Any]) -> optuna.Trial:
    """A trial that warns of values out of range, and raises where one is missing."""
    return cast(optuna.Trial, FixedTrial(dict(parameters)))


@pytest.mark.parametrize("policies", [("light", "photo"), ()])
def test_whatever_is_drawn_can_be_planned(policies: tuple[str, ...]) -> None:
    candidates = drawn(space(policies=policies))
    policies_seen = set()
    for candidate in candidates:
        config = RunConfig().replace({**BASE, **candidate.settings})
        planned = plan_training(Plan(config, ()), 2, 400).config
        policies_seen.add(planned.augment.policy)
        for name, value in candidate.settings.items():
            section, _, leaf = name.rpartition(".")
            assert getattr(getattr(planned, section) if section else planned, leaf) == value, name
        assert (planned.heads is not None) == bool(candidate.features)
    assert policies_seen == {"none", *policies}
    assert 30 < sum(bool(candidate.features) for candidate in candidates) < 90


def test_heads_with_one_key_differ_in_nothing_but_the_head() -> None:
    groups: dict[str, set[str]] = {}
    for candidate in drawn(space()):
        if candidate.features:
            shared = {name: value for name, value in candidate.settings.items() if not name.startswith("heads.")}
            groups.setdefault(candidate.features, set()).add(repr(sorted(shared.items())))
    assert all(len(shared) == 1 for shared in groups.values())
    assert len(set.union(*groups.values())) == len(groups) == 2 * 3  # backbones, and 1, 4 or 8 views


def test_what_is_tried_first_is_in_the_space_and_whole() -> None:
    for made in (space(), space(policies=())):
        candidates = []
        for parameters in made.first():
            trial = fixed(parameters)
            candidates.append(made.draw(trial))
            assert trial.params == parameters
        assert [bool(candidate.features) for candidate in candidates] == [True, True, False, False] * 2


def test_small_files_may_be_enlarged_less_than_to_what_a_backbone_was_made_for() -> None:
    made = TransferSpace(("mobilenetv2_100", "resnet20"), 400, ("light",), "they have weights here", side=64)
    sizes: dict[str, set[int | None]] = {"mobilenetv2_100": set(), "resnet20": set()}
    for candidate in drawn(made):
        sizes[candidate.settings["model.backbone"]].add(candidate.settings.get("data.image_size"))
    assert sizes == {"mobilenetv2_100": {None, 160, 128}, "resnet20": {None}}  # made for 224 and for 32 px
    begun = [(parameters["what"], parameters.get("data.side")) for parameters in made.first()]
    assert begun == [("head", 0.75)] * 2 + [(FINE_TUNING, 0.75)] * 2 + [("head", None)] * 2 + [(FINE_TUNING, None)] * 2
    large = TransferSpace(("mobilenetv2_100",), 400, (), "they have weights here", side=150)
    assert {candidate.settings.get("data.image_size") for candidate in drawn(large)} == {None, 160}
    for fits in (224.0, 1000.0):
        large = TransferSpace(("mobilenetv2_100",), 400, (), "they have weights here", side=fits)
        assert all("data.image_size" not in candidate.settings for candidate in drawn(large, 20))


def test_backbones_made_for_different_sizes_share_one_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transferspace, "side_of", {"large": 224, "medium": 160, "small": 96}.get)
    monkeypatch.setattr(transferspace, "depth_of_share", lambda *_: 3)
    made = TransferSpace(("large", "medium", "small"), 400, ("light",), "they have weights here", side=100)
    sizes: dict[str, set[int | None]] = {"large": set(), "medium": set(), "small": set()}
    for candidate in drawn(made, 200):
        sizes[candidate.settings["model.backbone"]].add(candidate.settings.get("data.image_size"))
    assert sizes == {"large": {None, 160, 128}, "medium": {None, 128}, "small": {None}}


def fine_tuning(**changes: Any) -> dict[str, Any]:
    parameters = {
        "what": FINE_TUNING, "model.backbone": "resnet20", "model.depth": 0.25, "fit.optimizer": "sgd",
        "sgd.learning_rate": 0.01, "fit.backbone_rate": 0.3, "fit.layer_decay": 0.8, "fit.head_epochs": 1,
        "fit.label_smoothing": 0.0, "augment.policy": "photo",
    }  # fmt: skip
    return dict(space().draw(fixed(parameters | changes)).settings)


def test_a_part_of_the_backbone_is_trained_on_and_what_is_frozen_is_kept_where_it_does_not_change() -> None:
    changed = fine_tuning()
    assert changed["model.depth"] == 5  # a quarter of 19 layers
    assert changed["fit.learning_rate"] == 0.01
    assert changed["fit.feature_cache"] is False
    assert "fit.feature_cache" not in fine_tuning(**{"augment.policy": "none"})
    assert fine_tuning(**{"augment.policy": "none"})["fit.views"] == 1
    assert fine_tuning(**{"model.depth": 1.0})["model.depth"] == "all"


def test_a_share_of_a_backbone_is_at_least_a_layer() -> None:
    backbone = backbone_of(build_network(ModelConfig(backbone="resnet20"), (3, 32, 32), 2))
    assert backbone is not None
    graph = traced(backbone)
    assert graph is not None
    assert depth_of_share("resnet20", 0.5) == round(len(layers_of(graph)) / 2)
    assert depth_of_share("resnet20", 0.01) == 1


@pytest.mark.parametrize(("images", "views"), [(300, (1, 4, 8)), (20_000, (1, 4)), (60_000, (1,))])
def test_many_images_have_few_views_and_are_passed_over_seldom(images: int, views: tuple[int, ...]) -> None:
    made = space(images)
    assert made.views == views
    assert made.epochs == {300: 40, 20_000: 4, 60_000: 4}[images]
    heads = [candidate for candidate in drawn(made) if candidate.features]
    assert {candidate.settings["fit.views"] for candidate in heads} == set(views)


def put(path: Path, **words: str) -> None:
    save_file({"weight": torch.zeros(2)}, path, {**WORDS, **words})


def test_the_backbones_at_hand_take_colour_and_the_usual_one_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a.safetensors", zoo="resnet20")  # its name says nothing, so that no run would find it
    put(tmp_path / "mnist_tutorial.safetensors", zoo="mnist_tutorial")  # takes grey images
    put(tmp_path / "mobilenetv2_100_ours.safetensors", timm="mobilenetv2_100.ra_in1k")
    put(tmp_path / "resnet20.safetensors", zoo="resnet20")
    monkeypatch.setenv("TINTYPE_WEIGHTS", str(tmp_path))
    sources = backbones_at_hand()
    assert [source.architecture for source in sources] == ["mobilenetv2_100", "resnet20"]
    assert [source.path.name for source in sources] == ["mobilenetv2_100_ours.safetensors", "resnet20.safetensors"]
    (tmp_path / "mobilenetv2_100_ours.safetensors").unlink()
    assert [source.architecture for source in backbones_at_hand()] == ["resnet20"]


@pytest.mark.data
def test_the_published_weights_are_found(
    shared_weights: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINTYPE_WEIGHTS", str(shared_weights("resnet20_cifar10").parent))
    found = {source.architecture: source.image_size for source in backbones_at_hand()}
    assert found == {"mobilenetv2_100": 224, "resnet20_cifar10": 32, "resnet56_cifar10": 32}


def test_a_backbone_that_stays_as_it_is_gets_heads_alone() -> None:
    made = TransferSpace(("resnet20", "resnet32"), 400, ("light", "photo"), "they have weights here", heads_only=True)
    assert all(candidate.features for candidate in drawn(made, 60))
    started = [made.draw(fixed(_all_of(parameters))) for parameters in made.first()]
    assert len(started) == 4
    assert all(candidate.features for candidate in started)


def _all_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What is tried first, with something for the parameters that it leaves to the sampler."""
    return {"fit.views": 1, "heads.weight_decay": 0.1, **parameters}
