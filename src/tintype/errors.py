"""The exceptions users see.

Every message is one plain line: the fact, the value, the remedy. The command line prints it without a
traceback and exits with code 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tintype.records import Finding  # numpy would make `tintype --help` slow


class TintypeError(Exception):
    """A mistake or a circumstance that the user can mend; base of all others."""


class DataError(TintypeError):
    """The images, labels or manifest cannot be used as they are."""


class ConfigError(TintypeError):
    """A setting has a value that it cannot have."""


class LayerError(ConfigError):
    """A network text cannot be built; the message names the line."""


class RunError(TintypeError):
    """A run directory is missing, incomplete, from another version, or in the way."""


class RankError(TintypeError):
    """The processes that train together cannot: they differ, or one of them is gone."""


class RankGoneError(RankError):
    """Another process has ended or cannot be reached; torchrun starts all of them anew."""


class RunInterrupted(TintypeError):  # noqa: N818  (nothing went wrong)
    """The user stopped a run; the message says how to go on."""


class NonFiniteError(TintypeError):
    """The loss was not finite; the message says where it was first seen and the suspected cause.

    Attributes:
        finding: The cause with its evidence, as it stands in ``findings.json``.
    """

    def __init__(self, message: str, finding: Finding) -> None:
        super().__init__(message)
        self.finding = finding


class MissingDependencyError(TintypeError):
    """An optional library is needed; the message holds the install command."""
