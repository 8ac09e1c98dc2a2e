r"""What a study is: a base run, axes of settings, seeds; read from TOML and turned into the runs that it asks for.

A study file::

    name = "fine-tuning depth"
    kind = "depth"                      # "depth", "models" or "grid"
    seeds = 3                           # seeds 0, 1 and 2, or a list of seeds
    [base]                              # any setting of a run
    model.backbone = "resnet20_cifar10"
    [axes]                              # every combination of these is trained with every seed
    "model.depth" = [0, 3, "all"]
    "model.head" = {plain = "gap", wide = "gap\ndense 256 relu"}     # values with names of their own
    [quick]                             # what --quick changes; `seeds` may stand here too
    fit.epochs = 2

The first value of each axis together make the reference that the others are compared with.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from tintype.config import RunConfig
from tintype.errors import ConfigError

Kind = Literal["depth", "models", "grid"]

_LONGEST_NAME = 60
"""Characters of a value that is its own name."""

_LONGEST_FOLDER = 120


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes.

    Attributes:
        setting: Dotted name, such as ``model.depth``.
        label: What it is called in tables, such as ``depth``.
        values: Name of each value in tables, and the value.
    """

    setting: str
    label: str
    values: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Point:
    """One row of a study's table.

    Attributes:
        label: In words, such as ``depth 13`` or ``vgg16``; no two points have the same.
        folder: The same as a part of a folder's name, such as ``depth=13``.
        names: Setting to the name of its value.
        settings: Setting to its value.
    """

    label: str
    folder: str
    names: dict[str, str]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Request:
    """A run that a study asks for: its folder's name, its point, its seed and its settings."""

    name: str
    point: str
    seed: int
    config: RunConfig


@dataclass(frozen=True)
class Study:
    """An experiment of many runs.

    Attributes:
        name: What it is called.
        kind: What its report shows: accuracy against ``depth``, ``models`` beside their cost, or any ``grid``.
        base: The settings that all runs share.
        axes: The settings that vary; the first value of each is the reference's.
        seeds: The seeds that every point is trained with.
        quick: Whether this is the short form of it.
    """

    name: str
    kind: Kind
    base: RunConfig
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    quick: bool = False

    def points(self) -> tuple[Point, ...]:
        """Every combination of the axes' values, the last axis fastest."""
        found = []
        for chosen in itertools.product(*(axis.values for axis in self.axes)):
            pairs = list(zip(self.axes, chosen, strict=True))
            words = [name if self.kind == "models" else f"{axis.label} {name}" for axis, (name, _) in pairs]
            found.append(
                Point(
                    label=", ".join(words),
                    folder=_folder_name(",".join(f"{axis.label}={name}" for axis, (name, _) in pairs)),
                    names={axis.setting: name for axis, (name, _) in pairs},
                    settings={axis.setting: value for axis, (_, value) in pairs},
                )
            )
        return tuple(found)

    def requests(self) -> tuple[Request, ...]:
        """All runs, in the order of what they tell: one seed of every point, then the next seed.

        Raises:
            ConfigError: A combination of values that no run can have.
        """
        return tuple(
            Request(
                name=f"{point.folder},seed={seed}",
                point=point.label,
                seed=seed,
                config=_with_whole_path(self.base.replace({**point.settings, "seed": seed})),
            )
            for seed in self.seeds
            for point in self.points()
        )

    def to_toml(self) -> str:
        """The study as a file that repeats it, with everything that the command line changed."""
        content = {
            "name": self.name,
            "kind": self.kind,
            "seeds": list(self.seeds),
            "base": self.base.model_dump(exclude_defaults=True, exclude_none=True),
            "axes": {axis.setting: dict(axis.values) for axis in self.axes},
        }
        return tomli_w.dumps(content, multiline_strings=True)


def load_study(
    path: Path, *, source: str | Path | None = None, settings: Mapping[str, Any] | None = None, quick: bool = False
) -> Study:
    """Read a study file; what is given here is stronger than the file.

    Args:
        path: A TOML file, as this module's head describes.
        source: The data, instead of the file's ``data.source``.
        settings: Further settings of the base by dotted name.
        quick: Apply the file's ``[quick]``.

    Raises:
        ConfigError: The file is missing, is no study, or holds a setting or a value that does not exist.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the study {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from None
    try:
        file = _StudyFile.model_validate(tree)
        return _make_study(file, {} if source is None else {"data.source": str(source)}, settings or {}, quick)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_mistake(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def slug(name: str) -> str:
    """A study's name as a folder's: ``fine-tuning depth`` becomes ``fine-tuning-depth``."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.")[:_LONGEST_FOLDER] or "study"


def models_study(config: RunConfig, setting: str, values: tuple[Any, ...]) -> Study:
    """A study that compares values of one setting, networks for instance, with the run's own seed.

    Raises:
        ConfigError: Fewer than two values, a value twice, or a value that the setting cannot have.
    """
    axis = _axis(setting, setting.rsplit(".", 1)[-1], list(values))
    if len(axis.values) < 2:
        raise ConfigError(f"comparing takes at least two values of {setting}. Got {axis.values[0][0]} alone.")
    name = " ".join([Path(config.data.source).stem or "data", *(name for name, _ in axis.values)])
    study = Study(name, "models", _with_whole_path(config), (axis,), (config.seed,))
    study.requests()
    return study


class _StudyFile(BaseModel):
    """The file's own keys; settings are checked when they are put together."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    kind: Kind = "grid"
    seeds: int | list[int] = 3
    base: dict[str, Any] = {}
    axes: dict[str, Any]
    quick: dict[str, Any] = {}


def _make_study(file: _StudyFile, data: dict[str, Any], settings: Mapping[str, Any], quick: bool) -> Study:
    hasty = dict(file.quick)
    quick_seeds = hasty.pop("seeds", None)
    seeds = _seeds(quick_seeds if quick and quick_seeds is not None else file.seeds)
    changes = _settings(file.base)
    if quick:
        changes |= _settings(hasty)
    changes |= data | dict(settings)
    values = _settings(file.axes)
    both = sorted(changes.keys() & values.keys())
    if both:
        raise ConfigError(f"{both[0]} is an axis of this study, so it cannot be set too. Change the axis in the file.")
    if "seed" in changes or "seed" in values:
        raise ConfigError("a study's seeds stand in `seeds`, a number or a list. Take `seed` out.")
    base = RunConfig().replace(changes)
    if not base.data.source and "data.source" not in values:
        raise ConfigError("no data is named: give --data DIR, or data.source under [base].")
    if file.kind == "depth" and "model.depth" not in values:
        raise ConfigError('a study of kind "depth" needs the axis "model.depth", such as [0, 3, "all"].')
    endings = [setting.rsplit(".", 1)[-1] for setting in values]
    axes = tuple(
        _axis(setting, ending if endings.count(ending) == 1 else setting, given)
        for (setting, given), ending in zip(values.items(), endings, strict=True)
    )
    if not axes:
        raise ConfigError('a study needs an axis, such as [axes] "fit.learning_rate" = [0.001, 0.01].')
    if not file.name.strip():
        raise ConfigError("a study needs a name.")
    study = Study(file.name.strip(), file.kind, _with_whole_path(base), axes, seeds, quick)
    study.requests()
    return study


def _settings(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted names; a table that is a setting's own value stays whole."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and not _is_setting(dotted):
            found |= _settings(value, f"{dotted}.")
        else:
            found[dotted] = value
    return found


def _is_setting(dotted: str) -> bool:
    """True for the name of a single setting, False for a section and for what does not exist."""
    section: type[BaseModel] = RunConfig
    *outer, leaf = dotted.split(".")
    for name in outer:
        inner = _section(section, name)
        if inner is None:
            return False
        section = inner
    return leaf in section.model_fields and _section(section, leaf) is None


def _section(of: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The class of a section's section; None for a single setting and for what does not exist."""
    annotation = of.model_fields[name].annotation if name in of.model_fields else None
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _axis(setting: str, label: str, given: Any) -> Axis:
    if isinstance(given, dict):
        values = tuple((str(name), value) for name, value in given.items())
    elif isinstance(given, list):
        values = tuple((_value_name(setting, value), value) for value in given)
    else:
        raise ConfigError(f"the axis {setting} takes a list of values, or a table of named ones. Got {given!r}.")
    names = [name for name, _ in values]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"the axis {setting} holds {twice} twice.")
    if not values:
        raise ConfigError(f"the axis {setting} has no values.")
    return Axis(setting, label, values)


def _value_name(setting: str, value: Any) -> str:
    """A value's own text, where it is short enough to stand in a table."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.12g}"
    if isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) <= _LONGEST_NAME:
        return value.strip()
    raise ConfigError(
        f'the values of the axis {setting} need names: write them as a table, such as {{small = "...", large = "..."}}.'
    )


def _seeds(given: Any) -> tuple[int, ...]:
    seeds = tuple(range(given)) if isinstance(given, int) else tuple(given) if isinstance(given, list) else ()
    if not seeds or not all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds):
        raise ConfigError(f"seeds takes a number of seeds from 1, or a list of seeds. Got {given!r}.")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds holds a seed twice: {given!r}.")
    return seeds


def _with_whole_path(config: RunConfig) -> RunConfig:
    """The same settings from wherever they are used."""
    if not config.data.source:
        return config
    return config.replace({"data.source": str(Path(config.data.source).expanduser().absolute())})


def _folder_name(words: str) -> str:
    """A name that every file system takes; what had to change or was too long is told apart by a hash."""
    plain = re.sub(r"[^\w.,=+-]", "_", words)
    if plain == words and len(plain) <= _LONGEST_FOLDER:
        return plain
    return f"{plain[:_LONGEST_FOLDER]}-{hashlib.sha256(words.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _first_mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"] if part not in ("int", "list[int]"))
    if first["type"] == "missing":
        return f"a study needs {name}."
    if first["type"] == "extra_forbidden":
        known = ", ".join(_StudyFile.model_fields)
        return f"there is no {name} in a study. There are: {known}; settings of the runs stand under [base]."
    if first["type"] == "literal_error":
        return f"{name} must be one of {', '.join(get_args(Kind))}. Got {first['input']!r}."
    return f"{name}: {first['msg'][0].lower()}{first['msg'][1:]}. Got {first['input']!r}."
