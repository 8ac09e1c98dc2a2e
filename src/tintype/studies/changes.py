"""What one point of a study does differently from another, in words."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from tintype.models import zoo

_MOST_CHANGES = 4
_LONGEST = 60
_HEAD = "model.head"
_NETWORKS = ("model.name", "model.layers", "model.backbone")


def describe_changes(
    then: Mapping[str, Any], now: Mapping[str, Any], named: Mapping[str, tuple[str, str]] | None = None
) -> str:
    """Say what differs: ``epochs 5 instead of 1; conv 64 5 relu instead of conv 64 3 relu``.

    Args:
        then: Dotted name of each setting of the reference to its value; None where it is left to the planner.
        now: The same of the other point.
        named: What the two values of a setting are called in the study, where they have names of their own.
    """
    parts = _network_changes(then, now)
    told = set(_NETWORKS) if parts else set()
    for setting in dict.fromkeys((*then, *now)):
        before, after = then.get(setting), now.get(setting)
        if before == after or setting in told:
            continue
        if setting == _HEAD and isinstance(before, str) and isinstance(after, str):
            parts += _layer_changes(before, after)
        else:
            old, new = (named or {}).get(setting) or (_shown(before), _shown(after))
            parts.append(f"{_leaf(setting)} {new} instead of {old}")
    more = len(parts) - _MOST_CHANGES
    return "; ".join(parts[:_MOST_CHANGES]) + (f"; and {more} more" if more > 0 else "")


def _network_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How the networks differ: line by line where both are texts, however they are named; nothing where they do not."""
    old, new = (next((name for name in _NETWORKS if tree.get(name) is not None), None) for tree in (then, now))
    if old is None or new is None or (old == new and then[old] == now[new]):
        return []
    before, after = _text_of(old, then[old]), _text_of(new, now[new])
    if before is not None and after is not None:
        changes = _layer_changes(before, after)
        if len(changes) <= _MOST_CHANGES or old == new == "model.layers":
            return changes
    return [f"{_leaf(new)} {_shown(now[new])} instead of {'' if old == new else f'{_leaf(old)} '}{_shown(then[old])}"]


def _text_of(setting: str, value: str) -> str | None:
    """The network's text in the layer language; None where it has none, as a backbone."""
    if setting == "model.name":
        return zoo.find(value).layers if value in zoo.names() else None
    return value if setting == "model.layers" else None


def _layer_changes(before: str, after: str) -> list[str]:
    """The lines of two texts in the layer language that differ."""
    old, new = _lines(before), _lines(after)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    found = []
    for kind, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if kind == "equal":
            continue
        come = new[new_from:new_to]
        for line in old[old_from:old_to]:
            like = next((other for other in come if other.split()[0] == line.split()[0]), None)
            if like is not None:
                come.remove(like)
            found.append(f"{like} instead of {line}" if like is not None else f"without {line}")
        found += [f"with {line}" for line in come]
    return _merged(found) or ["layers written otherwise"]


def _merged(words: list[str]) -> list[str]:
    """The same change in several places once, with how often."""
    return [f"{line} ({words.count(line)} times)" if words.count(line) > 1 else line for line in dict.fromkeys(words)]


def _lines(layers: str) -> list[str]:
    """One layer each, without comments and with single spaces."""
    pieces = (piece for line in layers.splitlines() for piece in line.partition("#")[0].split(";"))
    return [" ".join(piece.split()) for piece in pieces if piece.strip()]


def _leaf(setting: str) -> str:
    return setting.rsplit(".", 1)[-1]


def _shown(value: Any) -> str:
    if value is None:
        return "what the data suggest"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, str):
        words = "; ".join(_lines(value))
    else:
        words = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"
