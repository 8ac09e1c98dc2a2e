"""What a trial's parameters are sampled from: Optuna's TPE, seeded for each trial, with one look at the others."""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from tintype.tuning.database import quiet


def sampler_of(seed: int, number: int, fixed: Mapping[str, Any]) -> optuna.samplers.BaseSampler:
    """The sampler of one trial.

    Args:
        seed: Of the search.
        number: Of the trial; another one draws other numbers, whichever worker and process has it.
        fixed: Parameters that are not sampled.

    Returns:
        TPE that samples parameters jointly, also those that occur only in some trials (``group``), and keeps away from
        what is being tried just now (Optuna's ``constant_liar``, on unless it is turned off).
    """
    own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    with quiet():
        tpe: optuna.samplers.BaseSampler = _OneLook(optuna.samplers.TPESampler(seed=own, multivariate=True, group=True))
        return optuna.samplers.PartialFixedSampler(dict(fixed), tpe) if fixed else tpe


class _OneLook(optuna.samplers.BaseSampler):
    """A sampler that reads the other trials once for the trial that it serves.

    TPE with ``constant_liar`` reads the trials that run anew for every group of parameters: with a batch of 32 in hand
    that was half of the time that drawing took.
    """

    def __init__(self, base: optuna.samplers.BaseSampler) -> None:
        self._base = base
        self._seen: optuna.Study | None = None

    def _view(self, study: optuna.Study) -> optuna.Study:
        if self._seen is None:
            self._seen = copy.copy(study)
            self._seen._storage = _Snapshot(study._storage)  # type: ignore[assignment]
        return self._seen

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._base.infer_relative_search_space(self._view(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._base.sample_relative(self._view(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._base.sample_independent(self._view(study), trial, param_name, param_distribution)


class _Snapshot:
    """A storage whose trials are those of the first look; all else is the storage's."""

    def __init__(self, storage: optuna.storages.BaseStorage) -> None:
        self._storage = storage
        self._trials: list[FrozenTrial] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if self._trials is None:
            self._trials = self._storage.get_all_trials(study_id, deepcopy=False)
        chosen = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(chosen) if deepcopy else chosen
