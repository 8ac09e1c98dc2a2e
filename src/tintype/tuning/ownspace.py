r"""A search space of the user's own, from a TOML file.

A space file::

    name = "recipes for my birds"       # by default the file's name
    budget = "30m"                      # by default what the command line says
    architectures = true                # draw networks from tintype's own family as well
    [base]                              # settings of all candidates
    data.image_size = 64
    [space]                             # what is searched
    fit.learning_rate = {low = 1e-4, high = 1e-1, log = true}
    fit.batch_size = {low = 32, high = 128, step = 32}
    fit.optimizer = ["adamw", "sgd"]
    "model.head" = {choices = {plain = "gap", wide = "gap\ndense 256 relu"}}    # values with names of their own

Whole numbers are drawn for settings that take no fractions.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.models.grammar import parse_layers
from tintype.tuning.architectures import starting_parameters, suggest_architecture
from tintype.tuning.scratch import NETWORKS
from tintype.tuning.space import Candidate, Images

if TYPE_CHECKING:
    import optuna

SEARCHED = ("augment.", "model.", "fit.", "heads.")
"""How the names of settings begin that a search may vary. All candidates see the same images, on the same machine."""

OF_THE_STAGES = ("fit.epochs", "fit.steps_per_epoch")
"""What the stages of the search choose."""

_RANGE_KEYS = {"low", "high", "log", "step"}
_SPEC_KEYS = _RANGE_KEYS | {"choices"}
_LONGEST_NAME = 60


class Parameter(Protocol):
    """One setting that is searched."""

    def draw(self, trial: optuna.Trial, setting: str) -> Any:
        """Ask the trial for a value."""
        ...


@dataclass(frozen=True)
class Choices:
    """A setting that takes one of some values.

    Attributes:
        values: Each by its name. A search keeps names, as they are short and no two are equal.
    """

    values: Mapping[str, Any]

    def draw(self, trial: optuna.Trial, setting: str) -> Any:
        """Ask the trial for a name, and give its value."""
        return self.values[trial.suggest_categorical(setting, tuple(self.values))]


@dataclass(frozen=True)
class Range:
    """A setting that takes a number.

    Attributes:
        low: The least.
        high: The largest.
        log: Draw evenly among orders of magnitude.
        step: Draw ``low``, ``low + step``, ...; None: any number.
        whole: Draw whole numbers.
    """

    low: float
    high: float
    log: bool
    step: float | None
    whole: bool

    def draw(self, trial: optuna.Trial, setting: str) -> float:
        """Ask the trial for a number."""
        if self.whole:
            step = int(self.step or 1)
            return trial.suggest_int(setting, int(self.low), int(self.high), step=step, log=self.log)
        value = trial.suggest_float(setting, self.low, self.high, step=self.step, log=self.log)
        # Figures that people can read; 12 digits drop what the addition of steps leaves in the last.
        return min(self.high, max(self.low, float(f"{value:.12g}" if self.step else f"{value:.4g}")))


@dataclass(frozen=True)
class OwnSpace:
    """What a user's file says is to be searched.

    Attributes:
        reason: Where it comes from.
        parameters: What is searched, by dotted name of the setting.
        architectures: Draw the network from tintype's family too.
        images: What is to be classified; needed for architectures alone, see :meth:`on`.
        name: ``own``.
    """

    reason: str
    parameters: Mapping[str, Parameter]
    architectures: bool = False
    images: Images | None = None
    name: str = "own"

    def on(self, images: Images) -> OwnSpace:
        """The same for these images."""
        return replace(self, images=images)

    def draw(self, trial: optuna.Trial) -> Candidate:
        """Ask for a value of each setting."""
        settings = {setting: parameter.draw(trial, setting) for setting, parameter in self.parameters.items()}
        if self.architectures:
            assert self.images is not None, "a space with architectures knows its images"
            settings["model.layers"] = suggest_architecture(trial, self.images).layers(self.images.size)
        return Candidate(settings)

    def first(self) -> Sequence[Mapping[str, Any]]:
        """Nothing, or networks that are known to work."""
        return starting_parameters(self.images) if self.architectures and self.images is not None else ()


@dataclass(frozen=True)
class SpaceFile:
    """What a space file says.

    Attributes:
        name: Of the search.
        base: Settings of all candidates by dotted name.
        budget: As written, such as ``30m``; empty where the file does not say.
        space: What is searched.
    """

    name: str
    base: Mapping[str, Any]
    budget: str
    space: OwnSpace


class _File(BaseModel):
    """The file's own keys; settings are checked when they are put together."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = ""
    budget: str = ""
    architectures: bool = False
    base: dict[str, Any] = {}
    space: dict[str, Any] = {}


def load_space(path: Path) -> SpaceFile:
    """Read a space file, as this module's head describes it.

    Raises:
        ConfigError: The file is missing, is no space, or names a setting or a value that does not exist, or one that
            a search cannot vary.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the space {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from None
    try:
        return _make(_File.model_validate(tree), path)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_mistake(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _make(file: _File, path: Path) -> SpaceFile:
    base = _flat(file.base, lambda _: False)
    config = RunConfig().replace(base)
    given = _flat(file.space, lambda table: bool(_SPEC_KEYS & table.keys()))
    if not given and not file.architectures:
        raise ConfigError(
            "there is nothing to search: [space] needs a setting, such as fit.momentum = {low = 0.8, high = 0.99}, "
            "or the file architectures = true."
        )
    _refuse_what_is_not_searched(given, base)
    if file.architectures:
        network = next((name for name in NETWORKS if name in given or name in base), None)
        if network is not None:
            raise ConfigError(f"architectures = true chooses the network, and so does {network}. Take one of them out.")
    parameters = {setting: _parameter(setting, value, config) for setting, value in given.items()}
    space = OwnSpace(f"{path.name} says what to vary", parameters, file.architectures)
    return SpaceFile(file.name.strip() or path.stem, base, file.budget, space)


def _flat(tree: Mapping[str, Any], is_value: Callable[[dict[str, Any]], bool], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted names; a table that is a value stays whole."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value and not is_value(value):
            found |= _flat(value, is_value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _refuse_what_is_not_searched(space: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    for setting in space:
        if setting in OF_THE_STAGES:
            raise ConfigError(
                f"{setting} is nothing to search: candidates train for a few seconds, and longer as they prove good. "
                "Take it out."
            )
        if not setting.startswith(SEARCHED):
            raise ConfigError(
                f"{setting} is nothing to search: all candidates see the same images on the same machine. Put it under "
                "[base]; a search varies augment, model, fit and heads."
            )
        if setting in base:
            raise ConfigError(f"{setting} is searched and set under [base] too. Take one of them out.")
    fixed = next((setting for setting in OF_THE_STAGES if setting in base), None)
    if fixed is not None:
        raise ConfigError(f"{fixed} cannot be set: the budget says how long a candidate trains. Take it out.")


def _parameter(setting: str, given: Any, config: RunConfig) -> Parameter:
    """One setting's values, each of which the setting takes.

    Raises:
        ConfigError: It is no list and no range, or has a value that the setting does not take.
    """
    table = given if isinstance(given, dict) else {"choices": given}
    unknown = sorted(table.keys() - _SPEC_KEYS)
    if unknown:
        raise ConfigError(f"{setting}: there is no {unknown[0]!r} in a range; it has low, high, log and step.")
    if "choices" in table:
        if len(table) > 1:
            raise ConfigError(f"{setting} takes choices, or low and high. Got both.")
        return _choices(setting, table["choices"], config)
    return _range(setting, table, config)


def _choices(setting: str, given: Any, config: RunConfig) -> Choices:
    if isinstance(given, dict):
        named = given
    elif isinstance(given, list):
        named = {}
        for number, value in enumerate(given, start=1):
            name = _value_name(number, value)
            if name in named:
                raise ConfigError(f"{setting} holds {name} twice.")
            named[name] = value
    else:
        raise ConfigError(f"{setting} takes a list of values, or {{low = ..., high = ...}}. Got {given!r}.")
    if not named:
        raise ConfigError(f"{setting} has no values to choose from.")
    for value in named.values():
        _require_taken(config, setting, value)
    return Choices(named)


def _value_name(number: int, value: Any) -> str:
    """A short value names itself; a long text, such as a network, is called by its number."""
    text = str(value)
    return text if len(text) <= _LONGEST_NAME and text.isprintable() else f"choice {number}"


def _range(setting: str, table: Mapping[str, Any], config: RunConfig) -> Range:
    missing = next((key for key in ("low", "high") if key not in table), None)
    if missing:
        raise ConfigError(f"{setting}: a range needs {missing}, such as {{low = 1e-4, high = 1e-1, log = true}}.")
    low, high, step = table["low"], table["high"], table.get("step")
    log = table.get("log", False)
    numbers = {"low": low, "high": high} | ({} if step is None else {"step": step})
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"{setting}: {key} must be a number. Got {value!r}.")
    if not isinstance(log, bool):
        raise ConfigError(f"{setting}: log must be true or false. Got {log!r}.")
    if low > high:
        raise ConfigError(f"{setting}: low must be at most high. Got {low} and {high}.")
    if log and low <= 0:
        raise ConfigError(f"{setting}: log needs a low above 0. Got {low}.")
    if step is not None and (log or step <= 0):
        raise ConfigError(
            f"{setting}: step and log exclude each other. Take one out."
            if log
            else f"{setting}: step must be above 0. Got {step}."
        )
    _require_taken(config, setting, low)
    _require_taken(config, setting, high)
    whole = not _takes(config, setting, math.floor(low) + 0.5)
    if whole and step is not None and step != int(step):
        raise ConfigError(f"{setting} takes whole numbers, so step must be one. Got {step}.")
    return Range(low, high, log, step, whole)


def _takes(config: RunConfig, setting: str, value: Any) -> bool:
    try:
        config.replace({setting: value})
    except ConfigError:
        return False
    return True


def _require_taken(config: RunConfig, setting: str, value: Any) -> None:
    """A value that the setting does not take is said before anything is trained.

    Raises:
        ConfigError: Settings say so, or the layer language.
    """
    config.replace({setting: value})
    if setting in ("model.layers", "model.head"):
        parse_layers(value)


def _first_mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(_File.model_fields)
        return f"there is no {name} in a space file. There are: {known}; settings stand under [base] and [space]."
    return f"{name}: {first['msg'][0].lower()}{first['msg'][1:]}. Got {first['input']!r}."
