"""Where a backbone's weights come from: a folder of the user's, the model hub's cache, or the hub itself.

Nothing here needs torch; timm is imported only where a name or its hub repository must be looked up.

A weights file is a ``.safetensors`` file whose header says how to use it::

    timm    name of the network in timm           zoo    or its name in tintype's zoo
    mean    0.485,0.456,0.406                     std    0.229,0.224,0.225      (scale 0..1, a number per channel)
    input   3,224,224                             kwargs {"pad_type": "same"}   (for timm's constructor)
"""

from __future__ import annotations

import difflib
import glob
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tintype.errors import ConfigError, RunError, TintypeError
from tintype.models import zoo
from tintype.models.hub import hub_trouble
from tintype.models.reading import one_line, opened

FOLDERS_VARIABLE = "TINTYPE_WEIGHTS"
"""Environment variable: folders or files, separated like PATH, in which weights are looked for first."""

ALIASES = {f"resnet{depth}_cifar10": f"resnet{depth}" for depth in (20, 32, 44, 56)}
"""Networks of the zoo by the name of the weights that are published for them."""

# fmt: off
ARGUMENTS = frozenset((
    "act_layer", "attn_drop_rate", "avg_down", "bn_eps", "bn_momentum", "class_token", "drop_block_rate",
    "drop_path_rate", "drop_rate", "dynamic_img_pad", "dynamic_img_size", "fc_norm", "final_norm",
    "global_pool", "init_values", "no_embed_class", "norm_layer", "output_stride", "pad_type",
    "patch_drop_rate", "pos_drop_rate", "pos_embed", "pre_norm", "proj_drop_rate", "qk_norm", "qkv_bias",
    "reg_tokens", "stem_type",
))
# fmt: on
"""What timm's constructors may be told by a file or by settings: how a network computes with its weights.

Everything else is refused. Arguments that choose what timm loads (``pretrained``, ``checkpoint_path``,
``pretrained_cfg`` ...) could make it download or unpickle a file, those that size a network could exhaust memory, and
the classifier, the channels and the image size are tintype's to choose.
"""

Arguments = dict[str, bool | int | float | str]

_HUB_FILE = "model.safetensors"
_PUBLISHER = "timm"
"""Whose repositories on the hub have the names of timm's networks."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")


@dataclass(frozen=True)
class WeightsSource:
    """A file of weights on this machine, and what must be known to use it.

    Attributes:
        path: The .safetensors file.
        architecture: The network's name in timm or in the zoo; None if the file does not say.
        arguments: What timm's constructor is to be told.
        image_size: Side in pixels of the images that the weights were trained with; None if unknown.
        mean: Mean of those images in the scale 0..1, per channel.
        std: Their standard deviation, likewise.
        description: Where the weights come from, in a phrase.
    """

    path: Path
    architecture: str | None
    arguments: Arguments
    image_size: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    description: str


def find_weights(backbone: str, weights: str | None) -> WeightsSource | None:
    """Find the weights for a backbone; those on the hub are downloaded.

    Args:
        backbone: A name of timm, with or without a tag (``vgg16.tv_in1k``), of the zoo, or of :data:`ALIASES`.
        weights: ``auto`` or None: look into the folders that :data:`FOLDERS_VARIABLE` names, then into the hub's
            cache, then ask the hub. ``none``: random weights. Else a file, or a folder to look into.

    Returns:
        None only for ``none``.

    Raises:
        ConfigError: There are no weights, no such network, or the file is for another network or does not say what
            must be known.
        RunError: The file cannot be read.
    """
    if weights == "none":
        return None
    if weights is not None and weights != "auto":
        return _given(backbone, Path(weights).expanduser())
    if found := _in_places(backbone, _places()):
        return found
    if zoo_name(backbone) is not None:
        raise ConfigError(f"there are no pretrained weights for {backbone}{_absent_places()}. {_remedy(backbone)}")
    return _from_hub(backbone)


def read_source(path: Path) -> WeightsSource:
    """What a weights file says of itself.

    Raises:
        ConfigError: It does not say how its images were standardised, or says something that cannot be.
        RunError: It cannot be read.
    """
    return _source(path, None)


def available(backbone: str, download: bool = True) -> WeightsSource | None:
    """The weights that ``auto`` finds; None where it finds none.

    A hub that does not answer is waited for 3 seconds at most.

    Args:
        backbone: See :func:`find_weights`.
        download: False: do not ask the hub for what is not on this machine.
    """
    try:
        if found := _in_places(backbone, _places()):
            return found
        # timm takes seconds to import, so it is asked only where something may come of it.
        if zoo_name(backbone) is not None or not (_may_be_cached(backbone) or (download and hub_trouble() is None)):
            return None
        return _from_hub(backbone) if download or _cached(backbone) else None
    except TintypeError:
        return None


def weights_at_hand() -> tuple[WeightsSource, ...]:
    """Every backbone whose weights ``auto`` finds on this machine, without asking the hub, each network once.

    First those in the folders that :data:`FOLDERS_VARIABLE` names, then those in the hub's cache, each in the order of
    their names. Files that cannot be used, or that do not say which network they are for, are passed over.
    """
    found: list[WeightsSource] = []
    for name in (*_names_in_places(), *_names_in_hub_cache()):
        is_new = _NAME.fullmatch(name) and not any(_is_same(name, source.architecture or "") for source in found)
        source = available(name, download=False) if is_new and _is_network(name) else None
        if source is not None:
            found.append(replace(source, architecture=name))
    return tuple(found)


def check_arguments(arguments: object, where: str) -> Arguments:
    """Constructor arguments, if they can do no harm.

    Args:
        arguments: From a file or from settings.
        where: What an error begins with.

    Raises:
        ConfigError: Not a flat table, a name not in :data:`ARGUMENTS`, or a value that is no plain word or number.
    """
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"{where}: must be a flat table of names and values.")
    for name, value in arguments.items():
        if name not in ARGUMENTS:
            raise ConfigError(
                f"{where}: {str(name)[:40]!r} is nothing that a network may be told. There are: "
                f"{', '.join(sorted(ARGUMENTS))}."
            )
        is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_]{1,40}", value) is not None
        is_number = isinstance(value, (bool, int, float)) and -10_000 <= value <= 10_000
        if not (is_word or is_number):
            raise ConfigError(f"{where}: {name} must be a word, a number, true or false. Got {str(value)[:40]!r}.")
    return dict(arguments)


def timm_config(name: str) -> Any:
    """The ``PretrainedCfg`` that timm has of a network: hub repository, mean, deviation, input size.

    Raises:
        ConfigError: timm has no such network, or no such weights of it; names that are close are listed.
    """
    import timm
    from timm.models import PretrainedCfg, get_arch_pretrained_cfgs, get_pretrained_cfg, is_model

    if not _NAME.fullmatch(name) or not is_model(name):
        near = difflib.get_close_matches(name[:100], [*ALIASES, *zoo.names(), *timm.list_models()], n=3, cutoff=0.6)
        hint = f"Did you mean {' or '.join(near)}?" if near else "Python's `timm.list_models()` gives timm's names."
        raise ConfigError(f"there is no backbone named {name[:60]!r}, neither in timm nor in the zoo. {hint}")
    try:
        return get_pretrained_cfg(name) or PretrainedCfg()
    except RuntimeError:
        tagged = ", ".join(get_arch_pretrained_cfgs(name))
        raise ConfigError(f"timm has no weights named {name!r}. There are: {tagged}.") from None


def zoo_name(backbone: str) -> str | None:
    """The zoo's name of a backbone; None if it is none of the zoo's."""
    name = ALIASES.get(backbone, backbone)
    return name if name in zoo.names() else None


def usual_size(backbone: str) -> int:
    """Side in pixels of the images that a backbone was made for.

    Raises:
        ConfigError: There is no such network.
    """
    own = zoo_name(backbone)
    return zoo.find(own).image_size if own is not None else int(timm_config(backbone).input_size[-1])


# What a file says.


def _source(path: Path, backbone: str | None) -> WeightsSource:
    with opened(path, "numpy") as file:
        words = dict(file.metadata() or {})
        # A finished run's file holds its preprocessing as tensors.
        own = {name: file.get_tensor(name).ravel() for name in ("mean", "std") if name in file.keys()}  # noqa: SIM118
    declared = _declared(words) or (path.stem if path.stem in ALIASES else None)
    if backbone is not None and declared is not None and not _is_same(declared, backbone):
        raise ConfigError(f"{path} holds the weights of {declared[:60]}, not of {backbone}.")
    arguments, side, mean, std = read_words(path, words)
    description = f"{path.name} in {path.absolute().parent}"
    if not mean and len(own) == 2:
        mean, std = (_figures(path, name, list(own[name][:4])) for name in ("mean", "std"))
    if not mean:
        config = _documented(path, declared or backbone)
        mean, std = tuple(config.mean), tuple(config.std)
        side = side or _square(config.input_size)
        description += f", standardised as timm documents {declared or backbone}"
    return WeightsSource(path, declared or backbone, arguments, side, mean, std, description)


def read_words(
    path: Path, words: Mapping[str, str]
) -> tuple[Arguments, int | None, tuple[float, ...], tuple[float, ...]]:
    """Arguments, side of the images, mean and deviation as a header's words give them; empty if they do not.

    Args:
        path: Of the file, for errors.
        words: The header's.

    Raises:
        ConfigError: One of them is not what it must be.
    """
    try:
        told = json.loads(words.get("kwargs", "{}"))
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: kwargs in its metadata must be a flat JSON object.") from None
    arguments = check_arguments(told, f"{path}: kwargs in its metadata")
    side = _side(path, words["input"]) if "input" in words else None
    if not {"mean", "std"} <= words.keys():
        return arguments, side, (), ()
    mean, std = (_figures(path, name, words[name].split(",")) for name in ("mean", "std"))
    if len(mean) != len(std):
        raise ConfigError(f"{path}: mean and std must have a number per channel each. Got {len(mean)} and {len(std)}.")
    return arguments, side, mean, std


def _documented(path: Path, name: str | None) -> Any:
    """What timm says of a file that lies as the hub has it, without any of its own."""
    if name is not None and zoo_name(name) is None:
        # The name of a file may have the tag that the settings leave out.
        config = timm_config(path.stem if path.stem.startswith(f"{name}.") else name)
        if config.has_weights:
            return config
    raise ConfigError(
        f"{path} does not say how its images were standardised (no 'mean' and 'std' in its metadata); `tintype import` "
        "writes a file that does."
    )


def _declared(words: Mapping[str, str]) -> str | None:
    return words.get("timm") or words.get("zoo")


def _is_same(one: str, other: str) -> bool:
    """Whether two names mean one network; tags must be equal where both have one."""
    (first, _, tag), (second, _, other_tag) = one.partition("."), other.partition(".")
    return ALIASES.get(first, first) == ALIASES.get(second, second) and (not tag or not other_tag or tag == other_tag)


def _side(path: Path, word: str) -> int | None:
    match = re.fullmatch(r"([1-9][0-9]?), ?([1-9][0-9]{0,3}), ?([1-9][0-9]{0,3})", word)
    if match is None:
        raise ConfigError(f"{path}: input must be channels, height and width, such as 3,224,224. Got {word[:60]!r}.")
    return _square((int(match[1]), int(match[2]), int(match[3])))


def _square(shape: tuple[int, int, int]) -> int | None:
    return shape[1] if shape[1] == shape[2] else None


def _figures(path: Path, name: str, values: Sequence[str | float]) -> tuple[float, ...]:
    try:
        figures = tuple(float(value) for value in values)
    except ValueError:
        figures = ()
    if len(figures) not in (1, 3) or not all(math.isfinite(x) and (name == "mean" or x >= 0) for x in figures):
        shown = ",".join(str(value) for value in values)[:80]
        raise ConfigError(f"{path}: {name} must be 1 or 3 numbers, one per channel. Got {shown!r}.")
    return figures


# Files and folders.


def _given(backbone: str, path: Path) -> WeightsSource:
    if not path.is_dir():
        return _source(path, backbone)
    if found := _in_places(backbone, [path]):
        return found
    raise ConfigError(f"there are no weights for {backbone} in {path}. {_remedy(backbone)}")


def _places() -> list[Path]:
    words = os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)
    return [Path(word).expanduser() for word in words if word]


def _names_in_places() -> Iterator[str]:
    """Names of networks by the headers, or else by the names, of the files in the places."""
    for place in _places():
        for path in sorted(place.glob("*.safetensors")) if place.is_dir() else [place]:
            name = _network_of(path)
            if name is not None:
                yield name


def _in_places(backbone: str, places: list[Path]) -> WeightsSource | None:
    if not _NAME.fullmatch(backbone):
        return None
    for place in places:
        exact = place / f"{backbone}.safetensors"
        if exact.is_file():
            return _source(exact, backbone)
        stem = glob.escape(backbone)
        found = [*place.glob(f"{stem}_*.safetensors"), *place.glob(f"{stem}.*.safetensors")]
        for path in [place] if place.is_file() else sorted(found):
            if _is_for(path, backbone):
                return _source(path, backbone)
    return None


def _is_for(path: Path, backbone: str) -> bool:
    """Whether a file holds the backbone's weights, by its header or else by its name."""
    name = _network_of(path)
    return name is not None and _is_same(name, backbone)


def _network_of(path: Path) -> str | None:
    """The network that a file is for, by its header or else by its name; None if neither says so."""
    try:
        with opened(path, "numpy") as file:
            return _declared(file.metadata() or {}) or _network_in(path.stem)
    except RunError:
        return None


def _network_in(stem: str) -> str | None:
    """The longest name of a network that a file's name begins with: ``vgg16_bn`` in ``vgg16_bn_mine``."""
    ends = [len(stem), *reversed([match.start() for match in re.finditer(r"[_.]", stem)])]
    return next((stem[:end] for end in ends if _is_network(stem[:end])), None)


def _is_network(name: str) -> bool:
    if zoo_name(name) is not None:
        return True
    from timm.models import is_model

    return bool(is_model(name))


def _remedy(backbone: str) -> str:
    return (
        f"Put {backbone}.safetensors into a folder named by {FOLDERS_VARIABLE}, give --weights PATH, or take "
        "--weights none (random)."
    )


def _absent_places() -> str:
    absent = [str(place) for place in _places() if not place.exists()]
    return f" ({FOLDERS_VARIABLE} names {absent[0]}, which does not exist)" if absent else " on this machine"


# The hub.


def _from_hub(backbone: str) -> WeightsSource:
    path = _cached(backbone)
    if path is None:
        if _repository(backbone) is None:
            raise ConfigError(f"timm knows of no pretrained weights for {backbone}. {_remedy(backbone)}")
        if trouble := hub_trouble():
            raise ConfigError(
                f"there are no pretrained weights for {backbone}{_absent_places()} and the model hub cannot be reached "
                f"({trouble}). {_remedy(backbone)}"
            )
        path = _download(backbone)
    repository = timm_config(backbone).hf_hub_id
    return replace(_source(path, backbone), architecture=backbone, description=f"{repository} of the model hub")


def _repository(backbone: str) -> tuple[str, str | None] | None:
    """Name and revision of the hub's repository; None if timm names none."""
    name, _, revision = (timm_config(backbone).hf_hub_id or "").partition("@")
    return (name, revision or None) if name else None


def _cached(backbone: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    repository = _repository(backbone)
    if repository is None:
        return None
    path = try_to_load_from_cache(repository[0], _HUB_FILE, revision=repository[1])
    return Path(path) if isinstance(path, str) else None


def _may_be_cached(backbone: str) -> bool:
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob(f"models--*--{glob.escape(backbone)}*")
    return next(folders, None) is not None


def _names_in_hub_cache() -> Iterator[str]:
    """Names of timm's networks, with their tags, that have a folder in the hub's cache."""
    from huggingface_hub import constants

    begin = f"models--{_PUBLISHER}--"
    for folder in sorted(Path(constants.HF_HUB_CACHE).glob(f"{begin}*")):
        yield folder.name.removeprefix(begin)


def _download(backbone: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    found = _repository(backbone)
    assert found is not None
    repository, revision = found
    try:
        return Path(hf_hub_download(repository, _HUB_FILE, revision=revision))
    except Exception as error:  # its library raises what the libraries beneath it raise
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise ConfigError(
                f"{repository} on the model hub has no {_HUB_FILE}, and pickled weights are not downloaded. Fetch its "
                f"file yourself, convert it with `tintype import`, and give --weights PATH."
            ) from None
        raise ConfigError(
            f"the weights for {backbone} could not be downloaded from {repository}: {one_line(error)}. "
            f"{_remedy(backbone)}"
        ) from None
