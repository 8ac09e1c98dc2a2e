"""What a study is: a base run, what varies, the seeds; turned into the runs that it asks for."""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.report.studyfile import StudyKind
from tintype.studies.changes import describe_changes
from tintype.studies.order import levels, position, relative_costs
from tintype.studies.scaling_plan import ScalingPlan

VARIANT = "variant"
"""What the axis of a study's variants is called; the value of a variant is a table of settings."""

KEY_SETTINGS: dict[StudyKind, tuple[str, ...]] = {
    "data size": ("data.train_images", "data.fraction"),
    "depth": ("model.depth",),
    "learning rate": ("fit.learning_rate",),
    "devices": ("device",),
}
"""What a study of a kind must vary: one of these."""

_NAMED_BY_VALUE: tuple[StudyKind, ...] = ("models", "devices")
"""Kinds whose points are called by their values alone, such as ``vgg16``."""

_NETWORKS = ("model.name", "model.layers", "model.backbone")
_LONGEST_NAME = 60
"""Characters of a value that is its own name."""

_LONGEST_FOLDER = 120


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes.

    Attributes:
        setting: Dotted name, such as ``model.depth``; :data:`VARIANT` for the variants.
        label: What it is called in tables, such as ``depth``.
        values: Name of each value in tables, and the value: of a variant its settings by dotted name.
    """

    setting: str
    label: str
    values: tuple[tuple[str, Any], ...]

    @property
    def settings(self) -> set[str]:
        """Dotted names of all settings that it changes."""
        if self.setting != VARIANT:
            return {self.setting}
        return {setting for _, changes in self.values for setting in changes}


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
        kind: What its report shows: one of :data:`tintype.report.studyfile.STUDY_KINDS`.
        base: The settings that all runs share.
        axes: The settings that vary.
        seeds: The seeds that every point is trained with.
        quick: Whether this is the short form of it.
        reference_name: Label of the point that the others are compared with; empty for the first value of each axis.
        range_test: Whether a study of the learning rate begins with a range test.
        scaling: What a study of scaling measures; its points are numbers of ranks, which it gets when they are there.
    """

    name: str
    kind: StudyKind
    base: RunConfig
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    quick: bool = False
    reference_name: str = ""
    range_test: bool = True
    scaling: ScalingPlan | None = None

    def points(self) -> tuple[Point, ...]:
        """Every combination of the axes' values, the last axis fastest."""
        return self._points

    @property
    def reference(self) -> Point:
        """The point that the others are compared with."""
        return next((point for point in self._points if point.label == self.reference_name), self._points[0])

    @cached_property
    def _points(self) -> tuple[Point, ...]:
        found = []
        for chosen in itertools.product(*(axis.values for axis in self.axes)):
            pairs = list(zip(self.axes, chosen, strict=True))
            settings: dict[str, Any] = {}
            for axis, (_, value) in pairs:
                settings |= value if axis.setting == VARIANT else {axis.setting: value}
            words = [
                name if self.kind in _NAMED_BY_VALUE or axis.setting == VARIANT else f"{axis.label} {name}"
                for axis, (name, _) in pairs
            ]
            found.append(
                Point(
                    label=", ".join(words),
                    folder=_folder_name(",".join(f"{axis.label}={name}" for axis, (name, _) in pairs)),
                    names={axis.setting: name for axis, (name, _) in pairs},
                    settings=settings,
                )
            )
        return tuple(found)

    def requests(self) -> tuple[Request, ...]:
        """All runs, in the order of what they tell (:mod:`tintype.studies.order`): one seed of every point first.

        Raises:
            ConfigError: A combination of values that no run can have.
        """
        if not self.seeds:
            return ()
        configs = {point.label: self.config_of(point, self.seeds[0]) for point in self._points}
        costs, reference = relative_costs(configs), self.reference.label
        level_of = {axis.setting: dict(zip(*_levels(axis, self.kind), strict=True)) for axis in self.axes}

        def key(point: Point) -> tuple[bool, int, float]:
            level = max(level_of[setting][name] for setting, name in point.names.items())
            return point.label != reference, level, costs[point.label]

        ordered = sorted(self._points, key=key)
        return tuple(
            Request(
                name=f"{point.folder},seed={seed}",
                point=point.label,
                seed=seed,
                config=configs[point.label].replace({"seed": seed}),
            )
            for seed in self.seeds
            for point in ordered
        )

    def config_of(self, point: Point, seed: int) -> RunConfig:
        """The settings of a point's run.

        Raises:
            ConfigError: No run can have this combination.
        """
        named = [setting for setting in _NETWORKS if setting in point.settings]
        # Of the three ways to name a network a run has one; the base's goes where a point names its own in another.
        dropped = dict.fromkeys((setting for setting in _NETWORKS if named and setting not in named), None)
        return with_whole_path(self.base.replace({**dropped, **point.settings, "seed": seed}))

    def changes_of(self, point: Point) -> str:
        """What a point does differently from the reference, in words; empty for the reference."""
        reference = self.reference
        if point.label == reference.label:
            return ""
        shared = point.settings.keys() & reference.settings.keys()
        if shared >= point.settings.keys() | reference.settings.keys():
            then, now = reference.settings, point.settings
        else:  # only variants set different settings; what one of them leaves alone is the base's
            names = dict.fromkeys((*reference.settings, *point.settings, *_NETWORKS))
            then, now = (
                {name: _value_of(self.config_of(item, next(iter(self.seeds), 0)), name) for name in names}
                for item in (reference, point)
            )
        named = {
            setting: (reference.names[setting], name) for setting, name in point.names.items() if setting != VARIANT
        }
        return describe_changes(then, now, named)

    def to_toml(self) -> str:
        """The study as a file that repeats it, with everything that the command line changed."""
        content: dict[str, Any] = {"name": self.name, "kind": self.kind, "seeds": list(self.seeds)}
        if self.reference_name:
            content["reference"] = self.reference_name
        if not self.range_test:
            content["range_test"] = False
        content["base"] = self.base.model_dump(exclude_defaults=True, exclude_none=True)
        if self.scaling is not None:  # the points are made from the ranks
            return tomli_w.dumps(content | {"seeds": list(self.seeds) or 0, "scaling": self.scaling.to_plain()})
        content["axes"] = {axis.setting: dict(axis.values) for axis in self.axes if axis.setting != VARIANT}
        variants = [
            {"name": name, **changes} for axis in self.axes if axis.setting == VARIANT for name, changes in axis.values
        ]
        return tomli_w.dumps(content | ({"variants": variants} if variants else {}), multiline_strings=True)


def slug(name: str) -> str:
    """A study's name as a folder's: ``fine-tuning depth`` becomes ``fine-tuning-depth``."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.")[:_LONGEST_FOLDER] or "study"


def models_study(config: RunConfig, setting: str, values: tuple[Any, ...]) -> Study:
    """A study that compares values of one setting, networks for instance, with the run's own seed.

    Raises:
        ConfigError: Fewer than two values, a value twice, or a value that the setting cannot have.
    """
    axis = make_axis(setting, setting.rsplit(".", 1)[-1], list(values))
    if len(axis.values) < 2:
        raise ConfigError(f"comparing takes at least two values of {setting}. Got {axis.values[0][0]} alone.")
    name = " ".join([Path(config.data.source).stem or "data", *(name for name, _ in axis.values)])
    study = Study(name, "models", with_whole_path(config), (axis,), (config.seed,))
    study.requests()
    return study


def make_axis(setting: str, label: str, given: Any) -> Axis:
    """An axis from a list of values, or from a table of named ones.

    Raises:
        ConfigError: It is neither, it is empty, a value stands in it twice, or one needs a name.
    """
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


def with_whole_path(config: RunConfig) -> RunConfig:
    """The same settings from wherever they are used."""
    if not config.data.source:
        return config
    return config.replace({"data.source": str(Path(config.data.source).expanduser().absolute())})


def _levels(axis: Axis, kind: StudyKind) -> tuple[list[str], tuple[int, ...]]:
    """The names of an axis' values, and how early each is worth a run."""
    key = KEY_SETTINGS.get(kind, ())
    places = [
        next((position(value[name]) for name in key if name in value), None)
        if axis.setting == VARIANT
        else position(value)
        for _, value in axis.values
    ]
    return [name for name, _ in axis.values], levels(places)


def _value_of(config: RunConfig, dotted: str) -> Any:
    value: Any = config
    for part in dotted.split("."):
        value = getattr(value, part, None)
    return value


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


def _folder_name(words: str) -> str:
    """A name that every file system takes; what had to change or was too long is told apart by a hash."""
    plain = re.sub(r"[^\w.,=+-]", "_", words)
    if plain == words and len(plain) <= _LONGEST_FOLDER:
        return plain
    return f"{plain[:_LONGEST_FOLDER]}-{hashlib.sha256(words.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
