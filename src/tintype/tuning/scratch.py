"""The space of networks trained from scratch: architecture, augmentation and recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tintype.config import AUGMENT_POLICIES, FitConfig, RunConfig
from tintype.planning import Plan, plan_training
from tintype.planning.chooser import SMALL_SIDE
from tintype.tuning.architectures import starting_parameters, suggest_architecture
from tintype.tuning.space import Candidate, Images

if TYPE_CHECKING:
    import optuna

NETWORKS = ("model.name", "model.layers", "model.backbone")
"""Settings each of which says which network it is."""

SGD_RATE, SGD_BATCH = 0.1, 128
"""For residual networks from scratch, with momentum 0.9 (He et al., Deep Residual Learning, 2015, section 4.2)."""

SGD_DECAY = 5e-4
"""The usual one for small images (Zagoruyko and Komodakis, Wide Residual Networks, 2016)."""

ADAMW_DECAY = 0.05

UNNORMALISED_RATE = 0.1
"""Share of the learning rate that a network without batch normalisation is searched around."""

_RATE_FACTORS = (0.2, 4.0)
_DECAY_FACTORS = (0.05, 5.0)
_BATCH_FACTORS = (0.25, 0.5, 1.0, 2.0)
_SMALLEST_BATCH = 8
_STRENGTHS = (0.5, 1.0, 1.5)
_STRENGTHENED = ("rotation", "shear", "zoom", "shift", "brightness", "contrast")
_AVERAGES = {"none": None, "short": 0.99, "long": 0.998}


@dataclass(frozen=True)
class ScratchSpace:
    """Networks of :mod:`tintype.tuning.architectures` with recipes around that of `tintype train`.

    How long a candidate trains, and at which image size, is for the stages of the search to say.

    Attributes:
        images: What is to be classified.
        reason: Why this space.
        fixed: Dotted names of the settings that the user chose; they are left alone.
        name: ``scratch``.
    """

    images: Images
    reason: str
    fixed: frozenset[str] = frozenset()
    name: str = "scratch"

    def draw(self, trial: optuna.Trial) -> Candidate:
        """Ask for an architecture, an augmentation and a recipe."""
        settings: dict[str, Any] = {}
        usual_share = 1.0
        if self._searches_networks:
            architecture = suggest_architecture(trial, self.images)
            settings["model.layers"] = architecture.layers(self.images.size)
            usual_share = 1.0 if architecture.norm == "bn" else UNNORMALISED_RATE
        settings |= self._augmentation(trial)
        settings |= self._recipe(trial, usual_share)
        return Candidate({name: value for name, value in settings.items() if name not in self.fixed})

    def first(self) -> Sequence[Mapping[str, Any]]:
        """The usual recipe for a few networks that are likely to be good, and the first of them with SGD."""
        usual = {
            "augment.policy": self._policies[1],
            "augment.strength": 1.0,
            "fit.optimizer": "adamw",
            "fit.schedule": "one_cycle",
            "fit.batch_size": self._usual.batch_size,
            "learning_rate_factor": 1.0,
            "weight_decay_factor": 1.0,
            "fit.label_smoothing": self._usual.label_smoothing,
            "fit.ema": "none" if self._usual.ema is None else "long",
        }
        networks = starting_parameters(self.images) if self._searches_networks else ({},)
        return (
            *({**usual, **network} for network in networks),
            {**usual, **networks[0], "fit.optimizer": "sgd"},
        )

    @property
    def _searches_networks(self) -> bool:
        return not self.fixed.intersection(NETWORKS)

    @property
    def _policies(self) -> tuple[str, ...]:
        """None, the usual one, and a stronger one where there is one; digits are never mirrored."""
        if self.images.size > SMALL_SIDE:
            return "none", "photo", "light"
        return ("none", "digits") if self.images.channels == 1 else ("none", "light", "photo")

    @cached_property
    def _usual(self) -> FitConfig:
        """The recipe that `tintype train` has for these images."""
        images = self.images
        color = "grey" if images.channels == 1 else "rgb"
        config = RunConfig().replace({"data.image_size": images.size, "data.color": color})
        return plan_training(Plan(config, ()), images.classes, images.training).config.fit

    def _augmentation(self, trial: optuna.Trial) -> dict[str, Any]:
        if "augment.policy" in self.fixed:
            return {}
        policy = trial.suggest_categorical("augment.policy", self._policies)
        settings: dict[str, Any] = {"augment.policy": policy}
        if policy != "none":
            strength = trial.suggest_categorical("augment.strength", _STRENGTHS)
            numbers = {name: AUGMENT_POLICIES[policy][name] for name in _STRENGTHENED}
            if strength != 1.0:
                settings |= {f"augment.{name}": round(strength * value, 4) for name, value in numbers.items() if value}
        return settings

    def _recipe(self, trial: optuna.Trial, share: float) -> dict[str, Any]:
        usual = self._usual
        assert usual.batch_size is not None
        assert usual.learning_rate is not None
        optimizer = trial.suggest_categorical("fit.optimizer", ("adamw", "sgd"))
        batch = trial.suggest_categorical("fit.batch_size", self._batches(usual.batch_size))
        # What suits a batch of one size suits another at a rate that grows with it: for SGD in proportion (Goyal et
        # al., Accurate, Large Minibatch SGD, 2017), for Adam as its root (Malladi et al., On the SDEs and Scaling Rules
        # for Adaptive Gradient Algorithms, 2022). So one factor is good or bad for batches of all sizes.
        if optimizer == "sgd":
            rate, decay = SGD_RATE * batch / SGD_BATCH, SGD_DECAY
        else:
            rate, decay = usual.learning_rate * (batch / usual.batch_size) ** 0.5, ADAMW_DECAY
        rate *= share * trial.suggest_float("learning_rate_factor", *_RATE_FACTORS, log=True)
        decay *= trial.suggest_float("weight_decay_factor", *_DECAY_FACTORS, log=True)
        settings: dict[str, Any] = {
            "fit.optimizer": optimizer,
            "fit.batch_size": batch,
            "fit.learning_rate": _rounded(rate),
            "fit.weight_decay": _rounded(decay),
            "fit.schedule": trial.suggest_categorical("fit.schedule", ("one_cycle", "cosine")),
            "fit.label_smoothing": round(trial.suggest_float("fit.label_smoothing", 0.0, 0.2, step=0.05), 2),
        }
        average = _AVERAGES[trial.suggest_categorical("fit.ema", tuple(_AVERAGES))]
        return settings if average is None else {**settings, "fit.ema": average}

    @staticmethod
    def _batches(usual: int) -> tuple[int, ...]:
        return tuple(dict.fromkeys(max(_SMALLEST_BATCH, round(usual * factor)) for factor in _BATCH_FACTORS))


def _rounded(value: float) -> float:
    """Three significant digits: settings are read and compared by people."""
    return float(f"{value:.3g}")
