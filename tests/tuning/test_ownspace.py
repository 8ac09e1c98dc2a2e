"""A user's own space: what a file may say, and what is said of a mistake in it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.tuning.ownspace import SpaceFile, load_space
from tintype.tuning.space import Candidate, Images

WHOLE = """
name = "birds"
budget = "30m"
[base]
data.image_size = 64
"model.backbone_arguments" = {drop_rate = 0.1}
[base.fit]
ema = 0.99
[space]
fit.learning_rate = {low = 1e-4, high = 1e-1, log = true}
fit.weight_decay = {low = 0, high = 1}
fit.batch_size = {low = 32, high = 128, step = 32}
"augment.policy" = ["none", "light"]
model.depth = [0, 3, "all"]
"model.head" = {choices = {plain = "gap", wide = "gap\\ndense 256 relu"}}
fit.label_smoothing = {low = 0.1, high = 0.1}
"""


def read(text: str, folder: Path) -> SpaceFile:
    path = folder / "space.toml"
    path.write_text(text, encoding="utf-8")
    return load_space(path)


def draws(file: SpaceFile, count: int = 40) -> list[Candidate]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [file.space.draw(study.ask()) for _ in range(count)]


def test_a_file_says_what_is_searched(tmp_path: Path) -> None:
    file = read(WHOLE, tmp_path)
    assert (file.name, file.budget, file.space.name) == ("birds", "30m", "own")
    base = RunConfig().replace(file.base)
    assert (base.data.image_size, base.fit.ema, base.model.backbone_arguments) == (64, 0.99, {"drop_rate": 0.1})
    seen = [candidate.settings for candidate in draws(file)]
    for settings in seen:
        config = base.replace(settings)
        assert config.fit.learning_rate is not None
        assert 1e-4 <= config.fit.learning_rate <= 1e-1
    assert {settings["fit.batch_size"] for settings in seen} == {32, 64, 96, 128}
    assert {settings["augment.policy"] for settings in seen} == {"none", "light"}
    assert {settings["model.depth"] for settings in seen} == {0, 3, "all"}
    assert {settings["model.head"] for settings in seen} == {"gap", "gap\ndense 256 relu"}
    assert {settings["fit.label_smoothing"] for settings in seen} == {0.1}
    decays = {settings["fit.weight_decay"] for settings in seen}
    assert len(decays) > 20, "fractions between whole bounds, where the setting takes them"
    below = sum(settings["fit.learning_rate"] < 3e-3 for settings in seen)
    assert 10 < below < 30, "half of the orders of magnitude"


def test_what_a_search_keeps_of_a_choice_is_its_name(tmp_path: Path) -> None:
    text = "conv 8 3 relu\ngap\n"
    file = read(f'[space]\nmodel.layers = ["""{text}""", "gap"]\n', tmp_path)
    study = optuna.create_study()
    study.enqueue_trial({"model.layers": "choice 1"})
    assert file.space.draw(study.ask()).settings == {"model.layers": text}


def test_a_file_without_a_name_has_its_own(tmp_path: Path) -> None:
    file = read("[space]\nfit.momentum = [0.9, 0.95]\n", tmp_path)
    assert (file.name, file.budget, dict(file.base)) == ("space", "", {})
    assert file.space.first() == ()


def test_architectures_stand_beside_settings(tmp_path: Path) -> None:
    file = read("architectures = true\n[space]\nfit.momentum = [0.9, 0.95]\n", tmp_path)
    space = file.space.on(Images(32, 3, 1_000, 5))
    study = optuna.create_study()
    for parameters in space.first():
        study.enqueue_trial(dict(parameters))
    settings = [space.draw(study.ask()).settings for _ in space.first()]
    assert len({candidate["model.layers"] for candidate in settings}) == len(settings) >= 3
    assert all(candidate.keys() == {"model.layers", "fit.momentum"} for candidate in settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing to search"),
        ("[space]\n", "nothing to search"),
        ("[space]\nfit.learning_rat = [1, 2]\n", "there is no setting 'fit.learning_rat'"),
        ("[space]\nfit.learning_rate = 3\n", "takes a list of values"),
        ("[space]\nfit.learning_rate = []\n", "no values"),
        ("[space]\nfit.learning_rate = {}\n", "a range needs low"),
        ("[space]\nfit.learning_rate = [0.1, -1]\n", "greater than 0. Got -1"),
        ("[space]\nfit.learning_rate = [0.1, 0.1]\n", "holds 0.1 twice"),
        ("[space]\nfit.learning_rate = {low = 1}\n", "a range needs high"),
        ("[space]\nfit.learning_rate = {low = 2, high = 1}\n", "low must be at most high. Got 2 and 1"),
        ("[space]\nfit.weight_decay = {low = 0, high = 1, log = true}\n", "log needs a low above 0. Got 0"),
        ("[space]\nfit.weight_decay = {low = 0, high = 1, log = 3}\n", "log must be true or false. Got 3"),
        ("[space]\nfit.weight_decay = {low = 0, high = inf}\n", "high must be a number. Got inf"),
        ("[space]\nfit.weight_decay = {low = true, high = 1}\n", "low must be a number. Got True"),
        ("[space]\nfit.weight_decay = {low = 0, high = 1, step = 0}\n", "step must be above 0"),
        ("[space]\nfit.weight_decay = {low = 1, high = 2, step = 1, log = true}\n", "step and log exclude"),
        ("[space]\nfit.weight_decay = {low = 1, high = 2, stop = 1}\n", "there is no 'stop'"),
        ("[space]\nfit.weight_decay = {low = 1, high = 2, choices = [1]}\n", "Got both"),
        ("[space]\nfit.batch_size = {low = 8, high = 16, step = 0.5}\n", "whole numbers, so step must be one"),
        ("[space]\nfit.batch_size = {low = 8.5, high = 16}\n", "fit.batch_size"),
        ('[space]\nfit.optimizer = ["adamw", "adam2"]\n', "Got 'adam2'"),
        ('[space]\nmodel.layers = ["convolution 3"]\n', "layers, line 1"),
        ("[space]\nfit.epochs = [1, 2]\n", "fit.epochs is nothing to search"),
        ("[space]\nfit.steps_per_epoch = [10, 20]\n", "fit.steps_per_epoch is nothing to search"),
        ("[space]\ndata.image_size = [32, 64]\n", "data.image_size is nothing to search"),
        ("[space]\nseed = [1, 2]\n", "seed is nothing to search"),
        ("[base]\nfit.epochs = 3\n[space]\nfit.momentum = [0.9, 0.95]\n", "fit.epochs cannot be set"),
        ("[base]\nfit.momentum = 0.8\n[space]\nfit.momentum = [0.9, 0.95]\n", "searched and set under [base]"),
        ("[base]\nfit.momentun = 0.8\n[space]\nfit.momentum = [0.9]\n", "there is no setting 'fit.momentun'"),
        ('architectures = true\n[base]\nmodel.name = "resnet20"\n', "architectures = true chooses the network"),
        ("architectures = 1\n", "architectures: "),
        ("budgets = 1\n", "there is no budgets in a space file"),
        ("[space\n", "is not TOML"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as told:
        read(text, tmp_path)
    assert said in str(told.value)
    assert str(tmp_path / "space.toml") in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the space"):
        load_space(tmp_path / "none.toml")
