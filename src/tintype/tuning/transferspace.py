"""The space of pretrained networks: heads on what a frozen backbone says, and backbones that train on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from tintype.models import zoo
from tintype.models.backbones import build_backbone
from tintype.models.graph import find_boundary
from tintype.models.pretrained import WeightsSource, available, usual_size, weights_at_hand, zoo_name
from tintype.planning.transfer import DEFAULT_BACKBONE, VIEWS
from tintype.tuning.space import Candidate

if TYPE_CHECKING:
    import optuna

HEAD = "head"
FINE_TUNING = "fine-tuning"

HEAD_IMAGES = 16_000
"""Images that a head is shown in all, where that is from :data:`HEAD_EPOCHS` passes over them."""

HEAD_EPOCHS = (4, 40)
"""Fewest and most passes over the training images for a head."""

HEAD_BATCH = 128
"""Most images a step for a head. 32 heads drawn from the space on 1,815 photos, 1,280 values each, took 14.7 s of one
core (Xeon with AVX-512, shared) in steps of 64, 9.4 s of 128 and 6.2 s of 256, since each step of AdamW goes over all
weights; the best were right on 183 of 185 validation images each time. 20 epochs in place of 9 took 17.6 s, and gave
none that was better. On two cores to themselves, in steps of 128: 5.4 s."""

WIDTHS = (0, 64, 256)
"""Units of a head's hidden layer. 32 heads of 256 took 10 s on those two cores; of 1,024 it would be 40."""

MOST_ROWS = 100_000
"""Training images, views counted each, above which no more views are kept: half a gigabyte of 1,280 values each."""

SHARES = (0.06, 0.12, 0.25, 0.5, 1.0)
"""Shares of a backbone's layers, from its end, that may train on: of MobileNetV2's 52 the last 3, 6, 13, 26, or all."""

SIDES = (1.0, 0.75, 0.5)
"""Shares of the side that a backbone was made for, to which smaller files are enlarged instead. MobileNetV2 (224 px) on
10,000 files of 64 px: a head on its features is as good at 128 px as at 224 (0.840 and 0.843 of 1,000), and a training
step takes a quarter of the time (2026-11-22)."""

FIRST_SIDE = SIDES[1]
"""That what is tried first has. On the same files the whole network was right on 0.898 of 1,019 after three passes at
160 px, and on 0.893 after five at 128 px, which took as long (2026-11-22, n = 1)."""

SIDE_STEP = 32
"""Sides are multiples of it, which is by how much most networks reduce their images."""


def backbones_at_hand() -> tuple[WeightsSource, ...]:
    """The pretrained networks for colour images whose weights are here, each with its name and its image size.

    The one that ``tintype train`` takes for photos comes first; it alone may be downloaded for this.
    """
    default = available(DEFAULT_BACKBONE)
    others = (source for source in weights_at_hand() if _is_another(source.architecture or ""))
    return (*(() if default is None else (replace(default, architecture=DEFAULT_BACKBONE),)), *others)


def _is_another(backbone: str) -> bool:
    """Whether a backbone for colour images is not the default one, with whatever tag."""
    own = zoo_name(backbone)
    return backbone.partition(".")[0] != DEFAULT_BACKBONE and (own is None or zoo.find(own).channels == 3)


class TransferSpace:
    """Heads on kept features, and fine-tuning.

    A trial's parameter ``what`` says which of both; a search that wants only one of them fixes it.

    Args:
        backbones: Names of pretrained networks with weights at hand, at least one.
        images: Number of training images.
        policies: How training images may be changed, besides not at all; the strongest last, by which the views for
            heads are made. None of them: images are never changed.
        reason: Why this space for these images: one clause, for people.
        heads_only: Whether backbones stay as they are.
        side: Of the files, in pixels; a backbone that was made for larger images may get them enlarged less. Infinite:
            the size is settled.
    """

    name = "transfer"

    def __init__(
        self, backbones: Sequence[str], images: int, policies: Sequence[str], reason: str, heads_only: bool = False,
        side: float = math.inf,
    ) -> None:  # fmt: skip
        assert backbones
        self.side = side
        self.heads_only = heads_only
        self.backbones = tuple(backbones)
        self.policies = tuple(policies)
        self.reason = reason
        self.epochs = max(HEAD_EPOCHS[0], min(HEAD_EPOCHS[1], round(HEAD_IMAGES / images)))
        self.batch_size = min(HEAD_BATCH, max(8, 1 << int(math.log2(max(1, images // 4)))))
        more = (VIEWS // 2, VIEWS) if policies else ()
        self.views = (1, *(views for views in more if views * images <= MOST_ROWS))

    def draw(self, trial: optuna.Trial) -> Candidate:
        """Ask the trial for its parameters, and make settings of them."""
        what = trial.suggest_categorical("what", (HEAD,) if self.heads_only else (HEAD, FINE_TUNING))
        backbone = trial.suggest_categorical("model.backbone", self.backbones)
        sizes = self._sizes(backbone)
        size = sizes[trial.suggest_categorical("data.side", SIDES)] if any(sizes.values()) else None
        return self._head(trial, backbone, size) if what == HEAD else self._fine_tuning(trial, backbone, size)

    def _sizes(self, backbone: str) -> dict[float, int | None]:
        """Sides in pixels to which images are brought, for each share; None for what the backbone was made for.

        A share that would make the files smaller stands for the next larger one: a study wants the same choices of a
        parameter in all of its trials, whatever their backbones were made for.
        """
        made_for = side_of(backbone)
        sizes: dict[float, int | None] = {}
        larger: int | None = None
        for share in SIDES:
            side = _rounded_side(share * made_for)
            sizes[share] = larger = side if self.side <= side < made_for else larger
        return sizes

    def first(self) -> Sequence[Mapping[str, Any]]:
        """For each backbone a plain head and one with a hidden layer; unless frozen, all layers and some of them."""
        # A short training likes unchanged images, the winner's last one much changed ones: after five passes over
        # 9,000 images of twenty classes "photo" was right on 0.893 of 1,019, "light" on 0.885 (2026-11-22, n = 1).
        policy = self.policies[-1] if self.policies else "none"
        return [
            {"model.backbone": backbone, **parameters, **self._first_side(backbone)}
            for backbone in self.backbones
            for parameters in (
                {"what": HEAD, "fit.views": 1, **_head_start(width=0, dropout=0.0)},
                {"what": HEAD, "fit.views": 1, **_head_start(width=WIDTHS[-1], dropout=0.4)},
                _fine_tuning_start(SHARES[-1], policy),
                _fine_tuning_start(SHARES[-2], policy),
            )
            if not (self.heads_only and parameters["what"] == FINE_TUNING)
        ]  # fmt: skip

    def _first_side(self, backbone: str) -> dict[str, float]:
        """Heads begin on the features that the logistic one has, and training where its steps are cheap."""
        return {"data.side": FIRST_SIDE} if any(self._sizes(backbone).values()) else {}

    def first_size(self, backbone: str) -> dict[str, Any]:
        """The setting of the images' size with which a backbone is tried first; none for what it was made for."""
        return _sized(self._sizes(backbone)[FIRST_SIDE])

    def whole(self, backbone: str) -> dict[str, Any]:
        """Settings of a backbone all of whose layers train on: of what can be drawn on it, it takes longest to use."""
        return {**self.first_size(backbone), "model.backbone": backbone, "model.depth": "all", "fit.optimizer": "adamw"}

    def _head(self, trial: optuna.Trial, backbone: str, size: int | None) -> Candidate:
        views = trial.suggest_categorical("fit.views", self.views)
        policy = "none" if views == 1 else self.policies[-1]
        # AdamW shrinks weights by the product of rate and decay in each step, so that over some hundred steps a decay
        # of less than 0.01 does nothing; Wang and Aitchison, How to set AdamW's weight decay, 2024, section 3.
        return Candidate(
            {
                **_sized(size),
                "model.backbone": backbone,
                "model.freeze": "all",
                "fit.views": views,
                "augment.policy": policy,
                "fit.epochs": self.epochs,
                "fit.batch_size": self.batch_size,
                "heads.learning_rate": (trial.suggest_float("heads.learning_rate", 1e-4, 1e-1, log=True),),
                "heads.weight_decay": (trial.suggest_float("heads.weight_decay", 1e-3, 10.0, log=True),),
                "heads.width": (trial.suggest_categorical("heads.width", WIDTHS),),
                # In steps: heads with the same are trained by the same calls.
                "heads.dropout": (trial.suggest_float("heads.dropout", 0.0, 0.6, step=0.2),),
                # Heads are trained in it; what a search said of one is then what a run says.
                "precision": "fp32",
            },
            features=f"{backbone}, {size or 'its own'} px, {views} views, {policy}",
        )

    def _fine_tuning(self, trial: optuna.Trial, backbone: str, size: int | None) -> Candidate:
        share = trial.suggest_categorical("model.depth", SHARES)
        optimizer = trial.suggest_categorical("fit.optimizer", ("adamw", "sgd"))
        low, high = (1e-4, 1e-2) if optimizer == "adamw" else (1e-3, 1e-1)
        policy = trial.suggest_categorical("augment.policy", ("none", *self.policies))
        settings: dict[str, Any] = {
            **_sized(size),
            "model.backbone": backbone,
            "model.depth": "all" if share == 1.0 else depth_of_share(backbone, share),
            "fit.optimizer": optimizer,
            "fit.learning_rate": trial.suggest_float(f"{optimizer}.learning_rate", low, high, log=True),
            "fit.backbone_rate": trial.suggest_float("fit.backbone_rate", 0.01, 1.0, log=True),
            "fit.layer_decay": trial.suggest_float("fit.layer_decay", 0.6, 1.0, step=0.1),
            "fit.head_epochs": trial.suggest_categorical("fit.head_epochs", (0, 1)),
            "fit.label_smoothing": trial.suggest_categorical("fit.label_smoothing", (0.0, 0.1)),
            "augment.policy": policy,
        }
        if policy == "none":
            settings["fit.views"] = 1
        elif share < 1.0:
            # Views of all images at every depth would cost more than the short training that they are for.
            settings["fit.feature_cache"] = False
        return Candidate(settings)


def _sized(size: int | None) -> dict[str, Any]:
    return {} if size is None else {"data.image_size": size}


def _rounded_side(side: float) -> int:
    return max(SIDE_STEP, round(side / SIDE_STEP) * SIDE_STEP)


def _head_start(width: int, dropout: float) -> dict[str, Any]:
    return {
        "heads.learning_rate": 3e-3, "heads.weight_decay": 0.1, "heads.width": width, "heads.dropout": dropout,
    }  # fmt: skip


def _fine_tuning_start(share: float, policy: str) -> dict[str, Any]:
    return {
        "what": FINE_TUNING, "model.depth": share, "fit.optimizer": "adamw", "adamw.learning_rate": 1e-3,
        "fit.backbone_rate": 0.2, "fit.layer_decay": 1.0, "fit.head_epochs": 1, "fit.label_smoothing": 0.1,
        "augment.policy": policy,
    }  # fmt: skip


@cache
def side_of(backbone: str) -> int:
    """Side in pixels of the images that a backbone's weights were made for."""
    source = available(backbone, download=False)
    return (source and source.image_size) or usual_size(backbone)


@cache
def depth_of_share(backbone: str, share: float) -> int:
    """How many of a backbone's last layers a share of them is, at least 1.

    Raises:
        ConfigError: There is no such network.
    """
    source = available(backbone, download=False)
    side = side_of(backbone)
    network = build_backbone(backbone, source.arguments if source else None, (3, side, side), wants_map=False)
    return max(1, round(share * find_boundary(network, "all").layers))
