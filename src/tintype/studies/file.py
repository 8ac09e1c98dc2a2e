r"""Reading a study file.

A study file::

    name = "fine-tuning depth"
    kind = "depth"                      # or "data size", "ablation", "models", "learning rate", "devices", "grid"
    seeds = 3                           # seeds 0, 1 and 2, or a list of seeds
    reference = "depth 3"               # what the others are compared with; by default the first
    [base]                              # any setting of a run
    model.backbone = "resnet20_cifar10"
    [axes]                              # every combination of these is trained with every seed
    "model.depth" = [0, 3, "all"]
    "model.head" = {plain = "gap", wide = "gap\ndense 256 relu"}     # values with names of their own
    [quick]                             # what --quick changes; `seeds`, `axes` and `variants` may stand here too
    fit.epochs = 2

Instead of axes, or beside them, a list of variants, each the base with settings of its own::

    [[variants]]
    name = "as it was"
    [[variants]]
    name = "wide"
    model.layers = "conv 64 5 relu\ngap"

A study of scaling has neither: its points are numbers of ranks (:class:`tintype.studies.scaling_plan.ScalingPlan`)::

    [scaling]
    modes = ["strong", "weak"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.report.studyfile import STUDY_KINDS, StudyKind
from tintype.studies.plan import KEY_SETTINGS, VARIANT, Axis, Study, make_axis, with_whole_path
from tintype.studies.scaling_plan import ONE_RANK, RANKS, ScalingPlan


class _StudyFile(BaseModel):
    """The file's own keys; settings are checked when they are put together."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    kind: StudyKind = "grid"
    seeds: int | list[int] = 3
    reference: str = ""
    range_test: bool | None = None
    base: dict[str, Any] = {}
    axes: dict[str, Any] = {}
    variants: list[dict[str, Any]] = []
    scaling: ScalingPlan | None = None
    quick: dict[str, Any] = {}


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
        given = ({} if source is None else {"data.source": str(source)}) | dict(settings or {})
        return _make_study(_hastened(file) if quick else file, given, quick)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_mistake(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _hastened(file: _StudyFile) -> _StudyFile:
    """The file with what its ``[quick]`` changes."""
    changes = dict(file.quick)
    scaling = _table(changes.pop("scaling", {}), "quick.scaling")
    seeds = changes.pop("seeds", file.seeds)
    axes = _settings(file.axes) | _settings(_table(changes.pop("axes", {}), "quick.axes"))
    variants = _quick_variants(file.variants, changes.pop("variants", None))
    base = _settings(file.base) | _settings(changes)
    tree = file.model_dump() | {"seeds": seeds, "axes": axes, "variants": variants, "base": base}
    if file.scaling is not None or scaling:
        tree["scaling"] = (file.scaling.to_plain() if file.scaling else {}) | scaling
    return _StudyFile.model_validate(tree)


def _quick_variants(variants: list[dict[str, Any]], wanted: Any) -> list[dict[str, Any]]:
    """The variants of the short form: some of them by name, or others altogether."""
    if wanted is None:
        return variants
    if not isinstance(wanted, list) or not all(isinstance(item, str | dict) for item in wanted):
        raise ConfigError(f"quick.variants takes names of variants, or variants. Got {wanted!r}.")
    by_name = {variant.get("name"): variant for variant in variants}
    unknown = next((item for item in wanted if isinstance(item, str) and item not in by_name), None)
    if unknown is not None:
        raise ConfigError(f"quick.variants: there is no variant {unknown!r}.")
    return [by_name[item] if isinstance(item, str) else item for item in wanted]


def _make_study(file: _StudyFile, given: dict[str, Any], quick: bool) -> Study:
    if file.kind == "scaling":
        return _scaling_study(file, given, quick)
    if file.scaling is not None:
        raise ConfigError('[scaling] belongs to a study of kind "scaling". Take it out.')
    values = _settings(file.axes)
    variants = _variants(file.variants)
    axes = (*((variants,) if variants else ()), *_axes(values))
    if not axes:
        raise ConfigError(
            'a study needs an axis, such as [axes] "fit.learning_rate" = [0.001, 0.01], or [[variants]] with names.'
        )
    changes = _settings(file.base) | given
    _refuse_what_is_set_twice(changes, given, axes)
    _require_its_key(file.kind, values, variants)
    if file.range_test and file.kind != "learning rate":
        raise ConfigError('range_test belongs to a study of kind "learning rate". Take it out.')
    base = RunConfig().replace(changes)
    if not base.data.source and not any("data.source" in axis.settings for axis in axes):
        raise ConfigError("no data is named: give --data DIR, or data.source under [base].")
    if not file.name.strip():
        raise ConfigError("a study needs a name.")
    study = Study(
        file.name.strip(), file.kind, with_whole_path(base), axes, _seeds(file.seeds), quick,
        range_test=file.range_test is not False,
    )  # fmt: skip
    if file.reference:
        study = _with_reference(study, file.reference)
    study.requests()
    return study


def _scaling_study(file: _StudyFile, given: dict[str, Any], quick: bool) -> Study:
    """A study of one rank; its other points are made when the ranks are there."""
    changes = _settings(file.base) | given
    set_by_itself = sorted({"parallel.workers", "parallel.scale_lr", "seed"} & changes.keys())
    if file.axes or file.variants or set_by_itself:
        what = set_by_itself[0] if set_by_itself else "axes" if file.axes else "variants"
        raise ConfigError(f"a study of scaling varies the ranks, and nothing else: take {what} out.")
    base = RunConfig().replace(changes)
    plan = file.scaling or ScalingPlan.model_validate({})
    if not base.data.source:
        raise ConfigError("no data is named: give --data DIR, or data.source under [base].")
    if "weak" in plan.modes and plan.weak_rate == "same" and base.fit.batch_size is None:
        raise ConfigError('scaling.weak_rate = "same" needs fit.batch_size under [base].')
    if not file.name.strip():
        raise ConfigError("a study needs a name.")
    seeds = () if file.seeds == 0 else _seeds(file.seeds)
    axes = (make_axis(VARIANT, RANKS, dict([ONE_RANK])),)
    return Study(file.name.strip(), file.kind, with_whole_path(base), axes, seeds, quick, scaling=plan)


def _axes(values: Mapping[str, Any]) -> tuple[Axis, ...]:
    endings = [setting.rsplit(".", 1)[-1] for setting in values]
    return tuple(
        make_axis(setting, ending if endings.count(ending) == 1 else setting, given)
        for (setting, given), ending in zip(values.items(), endings, strict=True)
    )


def _variants(given: list[dict[str, Any]]) -> Axis | None:
    """The variants as one axis whose values are tables of settings."""
    if not given:
        return None
    named: dict[str, dict[str, Any]] = {}
    for number, variant in enumerate(given, 1):
        changes = _settings({key: value for key, value in variant.items() if key != "name"})
        name = variant.get("name")
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ConfigError(f"variant {number} needs a name, which its row in the table has.")
        if name.strip() in named:
            raise ConfigError(f"there are two variants with the name {name.strip()}.")
        named[name.strip()] = changes
    return make_axis(VARIANT, VARIANT, named)


def _refuse_what_is_set_twice(base: Mapping[str, Any], given: Mapping[str, Any], axes: tuple[Axis, ...]) -> None:
    """A setting that varies is not set for all runs too, and the seeds stand in their own place."""
    varied: set[str] = set()
    for axis in axes:
        both = sorted(varied & axis.settings)
        if both:
            raise ConfigError(f"{both[0]} is an axis of this study, so no variant can set it too. Take one out.")
        varied |= axis.settings
        # A variant may leave the base's setting; what the command line says would be lost on those that do not.
        both = sorted((given if axis.setting == VARIANT else base).keys() & axis.settings)
        if both:
            what = "is set by the study's variants" if axis.setting == VARIANT else "is an axis of this study"
            raise ConfigError(f"{both[0]} {what}, so it cannot be set too. Change it in the file.")
    if "seed" in base or "seed" in varied:
        raise ConfigError("a study's seeds stand in `seeds`, a number or a list. Take `seed` out.")


def _require_its_key(kind: StudyKind, values: Mapping[str, Any], variants: Axis | None) -> None:
    """A study of a kind varies what the kind is about, on an axis or in every variant."""
    wanted = KEY_SETTINGS.get(kind)
    if wanted is None or any(setting in values for setting in wanted):
        return
    if variants and all(any(setting in changes for setting in wanted) for _, changes in variants.values):
        return
    examples = {
        "data size": "[100, 1000, 10000]",
        "depth": '[0, 3, "all"]',
        "learning rate": "[0.001, 0.01]",
        "devices": '["cpu", "cuda"]',
    }
    raise ConfigError(f'a study of kind "{kind}" needs the axis "{wanted[0]}", such as {examples[kind]}.')


def _with_reference(study: Study, name: str) -> Study:
    """The study with the point that is called so as its reference: by its label, or by its value alone."""
    points = study.points()
    named = [point for point in points if name in (point.label, ", ".join(point.names.values()))]
    if len(named) != 1:
        known = ", ".join(point.label for point in points[:12]) + (", ..." if len(points) > 12 else "")
        raise ConfigError(f"reference: there is no point {name!r}. There are: {known}.")
    return replace(study, reference_name=named[0].label)


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


def _table(given: Any, name: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ConfigError(f"{name} takes a table of axes. Got {given!r}.")
    return given


def _seeds(given: Any) -> tuple[int, ...]:
    seeds = tuple(range(given)) if isinstance(given, int) else tuple(given) if isinstance(given, list) else ()
    if not seeds or not all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds):
        raise ConfigError(f"seeds takes a number of seeds from 1, or a list of seeds. Got {given!r}.")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds holds a seed twice: {given!r}.")
    return seeds


def _first_mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"] if part not in ("int", "list[int]"))
    if first["type"] == "missing":
        return f"a study needs {name}."
    if first["type"] == "extra_forbidden":
        known = ", ".join(_StudyFile.model_fields)
        return f"there is no {name} in a study. There are: {known}; settings of the runs stand under [base]."
    if first["type"] == "literal_error":
        return f"{name} must be one of {', '.join(STUDY_KINDS)}. Got {first['input']!r}."
    return f"{name}: {first['msg'][0].lower()}{first['msg'][1:]}. Got {first['input']!r}."
