"""Settings: what is read, what is refused and with which words, and that TOML gives them back."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.config import (
    AUGMENT_POLICIES,
    OPTIONS,
    AugmentConfig,
    RunConfig,
    load_config,
    make_config,
    parse_assignments,
)
from tintype.errors import ConfigError


def test_toml_gives_the_settings_back(tmp_path: Path) -> None:
    config = RunConfig().replace(
        {"data.source": "photos", "model.layers": "conv 8 3 relu\ngap\n", "fit.epochs": 3, "augment.policy": "photo"}
    )
    path = tmp_path / "run.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert load_config(path) == config


@given(
    st.text(max_size=40),
    st.integers(1, 10**6),
    st.floats(1e-9, 10, allow_nan=False),
    st.sampled_from(["sgd", "adam", "adamw"]),
)
def test_any_text_survives_toml(source: str, epochs: int, rate: float, optimizer: str) -> None:
    config = RunConfig().replace(
        {"data.source": source, "fit.epochs": epochs, "fit.learning_rate": rate, "fit.optimizer": optimizer}
    )
    tree = tomllib.loads(config.to_toml())
    assert RunConfig.model_validate(tree) == config


def test_every_option_stands_for_a_setting_that_exists() -> None:
    for dotted in OPTIONS.values():
        section: Any = RunConfig()
        for part in dotted.split("."):
            section = getattr(section, part)


def test_later_settings_win(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[data]\nsource = "a"\n[fit]\nepochs = 1\nbatch_size = 4\n', encoding="utf-8")
    config = make_config("b", file=file, options={"epochs": 2, "seed": None}, settings={"fit.epochs": 3})
    assert config.data.source == "b"
    assert (config.fit.epochs, config.fit.batch_size, config.seed) == (3, 4, 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fit.epoch": 3}, "no setting 'fit.epoch'. There are: epochs, batch_size"),
        ({"fit.epochs": 0}, "fit.epochs: input should be greater than or equal to 1. Got 0"),
        ({"fit.optimizer": "lion"}, "'sgd', 'adam', 'adamw', 'rmsprop', 'adadelta' or 'lbfgs'. Got 'lion'"),
        ({"seed.x": 1}, "seed is a single value"),
        ({"fit.learning_rate": float("nan")}, "fit.learning_rate"),
    ],
)
def test_a_wrong_setting_is_one_line_with_the_remedy(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig().replace(settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_files_and_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read settings"):
        load_config(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"[fit\nepochs = \xff")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(broken)
    with pytest.raises(ConfigError, match="no option 'epoch'"):
        make_config("a", options={"epoch": 3})
    with pytest.raises(ConfigError, match="no data is named"):
        make_config(None)


def test_assignments() -> None:
    read = parse_assignments(["fit.epochs=20", "augment.policy=photo", "fit.ema=0.99", "data.skip_bad=true", "a=b=c"])
    assert read == {
        "fit.epochs": 20, "augment.policy": "photo", "fit.ema": 0.99, "data.skip_bad": True, "a": "b=c",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        parse_assignments(["fit.epochs"])


def test_policies_fill_what_is_not_set_and_keep_what_is() -> None:
    for policy in AUGMENT_POLICIES:
        resolved = AugmentConfig.model_validate({"policy": policy, "rotation": 33.0}).resolved()
        assert resolved.rotation == 33.0
        assert None not in resolved.model_dump().values()
    assert AugmentConfig(policy="none").resolved().is_identity
    assert not AugmentConfig(policy="none", flip_vertical=True).resolved().is_identity
