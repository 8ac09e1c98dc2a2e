"""The layer language: text to specifications and back.

A network is text, one layer a line (or several with ``;`` between them); ``#`` starts a comment, empty lines mean
nothing::

    conv FILTERS KERNEL [stride=1] [pad=same|valid] [bias=yes|no] [l2=0] [ACTIVATION]
    pool KERNEL [stride=KERNEL] [pad=same|valid]        largest value of each window
    avgpool KERNEL [stride=KERNEL] [pad=same|valid]     mean of each window, padding not counted
    gap | gmp                                           mean or largest value of each whole channel
    bn                                                  batch normalisation
    ACTIVATION                                          relu, tanh, sigmoid, leaky_relu, gelu, silu, elu, selu
    dropout SHARE                                       share of the values set to zero in training
    flatten                                             map to vector
    dense UNITS [bias=yes|no] [l2=0] [ACTIVATION]
    standardize                                         each image to mean 0 and deviation 1, by its own figures
    residual FILTERS [stride=1] [repeat=1] [shortcut=conv|pad]

``pad=same`` is Keras' rule: the output has ``ceil(size / stride)`` pixels a side, and an odd pixel of padding goes
to the bottom and the right. The output layer is not part of the text; it is added from the classes.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tintype.errors import LayerError

Value = int | float | str | bool
ACTIVATIONS = ("relu", "tanh", "sigmoid", "leaky_relu", "gelu", "silu", "elu", "selu")

MAX_LINES = 1_000
"""More lines than any sensible network has; a text that long is a wrong file."""

_HINTS = {
    "batchnorm": "It is called `bn`.",
    "batchnormalization": "It is called `bn`.",
    "fc": "It is called `dense`.",
    "linear": "It is called `dense`.",
    "maxpool": "It is called `pool`.",
    "softmax": "Leave it out: the output layer is added from the classes.",
}


@dataclass(frozen=True)
class LayerSpec:
    """One line of a network text.

    Attributes:
        kind: The first word of the line.
        settings: Every setting of the layer with its value, defaults included, in the grammar's order.
        line: Line number in the text, from 1; not part of equality.
        text: The line as written, without comment; not part of equality.
    """

    kind: str
    settings: tuple[tuple[str, Value], ...] = ()
    line: int = field(default=0, compare=False)
    text: str = field(default="", compare=False)

    def whole(self, name: str) -> int:
        """The setting ``name``, a whole number."""
        value = dict(self.settings)[name]
        assert isinstance(value, int)
        return value

    def number(self, name: str) -> float:
        """The setting ``name``, a number; 0 if this layer has no such setting."""
        return float(dict(self.settings).get(name, 0.0))

    def word(self, name: str) -> str:
        """The setting ``name``, a word; empty if this layer has no such setting."""
        return str(dict(self.settings).get(name, ""))

    def error(self, message: str) -> LayerError:
        """A :class:`LayerError` that points at this line."""
        return _error(self.line, self.text, message)


class _WrongValueError(Exception):
    """What a value must be, in words."""


@dataclass(frozen=True)
class _Setting:
    """One setting of a layer: how to read it, and its default (None: it must be given)."""

    name: str
    read: Callable[[str], Value]
    default: Value | None = None


@dataclass(frozen=True)
class _Rule:
    """How one kind of layer is written."""

    usage: str
    needs: str = ""
    positional: tuple[_Setting, ...] = ()
    named: tuple[_Setting, ...] = ()
    takes_activation: bool = False


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        # More digits than the limit has are out of range anyway, and int() of a very long text is slow.
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise _WrongValueError(f"a whole number from {low} to {high}")
        return int(text)

    return read


def _share(text: str) -> float:
    value = _decimal(text)
    if not 0 <= value < 1:
        raise _WrongValueError("a number from 0 to below 1")
    return value


def _not_negative(text: str) -> float:
    value = _decimal(text)
    if not 0 <= value < math.inf:
        raise _WrongValueError("a number of at least 0")
    return value


def _decimal(text: str) -> float:
    if not re.fullmatch(r"[0-9]*\.?[0-9]+([eE][-+]?[0-9]{1,3})?", text):
        return math.nan
    return float(text)


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise _WrongValueError(" or ".join(words))
        return text

    return read


_KERNEL = _Setting("kernel", _whole(1, 255))
_FILTERS = _Setting("filters", _whole(1, 65_536))
_PAD = _Setting("pad", _one_of("same", "valid"), "same")
_STRIDE = _Setting("stride", _whole(1, 255), 1)
_L2 = _Setting("l2", _not_negative, 0.0)
_BIAS = _Setting("bias", _one_of("yes", "no"), "yes")
# A pool's stride is its kernel unless given; 0 stands for that until the line has been read.
_POOL = (_Setting("stride", _whole(1, 255), 0), _PAD)

_RULES: dict[str, _Rule] = {
    "conv": _Rule("conv 64 3 relu", "filters and kernel size", (_FILTERS, _KERNEL), (_STRIDE, _PAD, _BIAS, _L2), True),
    "pool": _Rule("pool 3 stride=2", "a window size", (_KERNEL,), _POOL),
    "avgpool": _Rule("avgpool 2", "a window size", (_KERNEL,), _POOL),
    "gap": _Rule("gap"),
    "gmp": _Rule("gmp"),
    "bn": _Rule("bn"),
    "dropout": _Rule("dropout 0.5", "the share of values to drop", (_Setting("share", _share),)),
    "flatten": _Rule("flatten"),
    "dense": _Rule(
        "dense 128 relu", "the number of units", (_Setting("units", _whole(1, 1_000_000)),), (_BIAS, _L2), True
    ),
    "standardize": _Rule("standardize"),
    "residual": _Rule(
        "residual 64 stride=2",
        "the number of filters",
        (_FILTERS,),
        (
            _STRIDE,
            _Setting("repeat", _whole(1, 200), 1),
            _Setting("shortcut", _one_of("conv", "pad"), "conv"),
        ),
    ),
    **{name: _Rule(name) for name in ACTIVATIONS},
}

KINDS = tuple(_RULES)
"""Every word a line may start with."""


def parse_layers(text: str) -> tuple[LayerSpec, ...]:
    """Read a network text.

    Args:
        text: The network in the layer language, one layer a line.

    Raises:
        LayerError: A line cannot be read, or there is none; the message names the line and the remedy.
    """
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        raise LayerError(f"layers: the text has {len(lines)} lines; a network may have {MAX_LINES}.")
    specs = []
    for number, line in enumerate(lines, start=1):
        for part in line.partition("#")[0].split(";"):
            if content := part.strip():
                specs.append(_parse_line(content, number))
    if not specs:
        raise LayerError("layers: the text holds no layer; write one a line, such as `conv 32 3 relu`.")
    return tuple(specs)


def format_layers(specs: Iterable[LayerSpec]) -> str:
    """Write specifications as text that :func:`parse_layers` reads back as the same ones; defaults are left out."""
    return "".join(f"{_format_line(spec)}\n" for spec in specs)


def _parse_line(content: str, number: int) -> LayerSpec:
    kind, *words = content.split()
    rule = _RULES.get(kind)
    if rule is None:
        raise _error(number, content, f"there is no layer {_shorten(kind)!r}. {_suggest(kind)}")
    values: dict[str, Value] = {}
    positional = list(rule.positional)
    named = {setting.name: setting for setting in rule.named}
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            if name not in named:
                raise _error(number, content, f"{kind} has no setting {_shorten(name)!r}. {_list_settings(kind, rule)}")
            setting, text = named[name], value
        elif word in ACTIVATIONS and rule.takes_activation:
            setting, text = _Setting("activation", str), word
        elif positional and (word[0].isdigit() or word[0] in ".-+"):
            setting, text = positional.pop(0), word
        else:
            raise _error(number, content, _explain_word(kind, rule, word))
        if setting.name in values:
            raise _error(number, content, f"{setting.name} is given twice.")
        try:
            values[setting.name] = setting.read(text)
        except _WrongValueError as must:
            message = f"{setting.name} must be {must}. Got {_shorten(text)!r}."
            raise _error(number, content, message) from None
    if positional:
        raise _error(number, content, f"{kind} needs {rule.needs}, such as `{rule.usage}`.")
    return LayerSpec(kind, _complete(rule, values), number, content)


def _complete(rule: _Rule, values: dict[str, Value]) -> tuple[tuple[str, Value], ...]:
    settings: list[tuple[str, Value]] = [(setting.name, values[setting.name]) for setting in rule.positional]
    for setting in rule.named:
        assert setting.default is not None
        settings.append((setting.name, values.get(setting.name, setting.default)))
    if rule.named is _POOL and "stride" not in values:
        settings = [(name, values["kernel"] if name == "stride" else value) for name, value in settings]
    if rule.takes_activation:
        settings.append(("activation", values.get("activation", "")))
    return tuple(settings)


def _format_line(spec: LayerSpec) -> str:
    rule = _RULES[spec.kind]
    values = dict(spec.settings)
    words = [spec.kind, *(str(values[setting.name]) for setting in rule.positional)]
    for setting in rule.named:
        default = values["kernel"] if rule.named is _POOL and setting.name == "stride" else setting.default
        if values[setting.name] != default:
            words.append(f"{setting.name}={values[setting.name]}")
    return " ".join([*words, spec.word("activation")]).strip()


def _explain_word(kind: str, rule: _Rule, word: str) -> str:
    shown = _shorten(word)
    if word == "softmax":
        return f"`softmax` does not belong here. {_HINTS['softmax']}"
    if word in ACTIVATIONS:
        return f"{kind} takes no activation; write `{word}` on a line of its own."
    if rule.takes_activation and not word[0].isdigit():
        return f"there is no activation {shown!r}. There are: {', '.join(ACTIVATIONS)}."
    if word[0].isdigit():
        count = len(rule.positional)
        return (
            f"{kind} takes {count} number{'' if count == 1 else 's'}, such as `{rule.usage}`; {shown} is one too many."
        )
    return f"{kind} does not take {shown!r}. {_list_settings(kind, rule)}"


def _list_settings(kind: str, rule: _Rule) -> str:
    if not rule.named:
        return f"It is written `{rule.usage}`."
    return f"{kind} has {', '.join(setting.name + '=' for setting in rule.named)}."


def _suggest(kind: str) -> str:
    word = re.sub(r"2d$|[^a-z]", "", kind.lower())
    if word in _HINTS:
        return _HINTS[word]
    near = difflib.get_close_matches(word, KINDS, n=1)
    return f"Did you mean `{near[0]}`?" if near else f"There are: {', '.join(KINDS)}."


def _error(number: int, content: str, message: str) -> LayerError:
    return LayerError(f"layers, line {number}: `{_shorten(content, 80)}`: {message}")


def _shorten(text: str, length: int = 30) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= length else printable[: length - 1] + "…"
