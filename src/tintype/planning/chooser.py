"""Settings being settled, with what was chosen and why."""

from __future__ import annotations

from dataclasses import dataclass

from tintype.config import RunConfig

SMALL_SIDE = 64
"""Images whose shorter side is at most this stay at their own size; larger ones are photos."""


@dataclass(frozen=True)
class Plan:
    """Settings with nothing left open, and what was chosen: (setting, value, reason)."""

    config: RunConfig
    choices: tuple[tuple[str, str, str], ...]

    def settled(self, setting: str, value: object, reason: str | None = None) -> Plan:
        """With one more setting; said where there is a reason."""
        plan = Plan(self.config.replace({setting: value}), self.choices)
        return plan if reason is None else plan.noted(setting, str(value), reason)

    def noted(self, what: str, value: str, reason: str) -> Plan:
        """With one more line on what was chosen."""
        return Plan(self.config, (*self.choices, (what, value, reason)))


class Chooser:
    """Collects choices; a setting that the user gave is never asked about."""

    def __init__(self, config: RunConfig, choices: tuple[tuple[str, str, str], ...] = ()) -> None:
        self.config = config
        self._choices = list(choices)

    def choose(self, setting: str, value: object, reason: str, shown: str | None = None) -> None:
        """Set a value and say why."""
        self.settle(setting, value)
        self._choices.append((setting, str(value) if shown is None else shown, reason))

    def settle(self, setting: str, value: object) -> None:
        """Set a value that follows from others."""
        self.config = self.config.replace({setting: value})

    def plan(self) -> Plan:
        """The settings and all choices."""
        return Plan(self.config, tuple(self._choices))
