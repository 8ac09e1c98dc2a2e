"""Faults of training: planted in real runs, each named first; and the rules' thresholds on made-up figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_facts import facts_of, recognised
from planted_data import Plant
from planted_networks import PLANTS

import tintype as tt
from tintype import api
from tintype.diagnosis import diagnose, training
from tintype.diagnosis.facts import Facts
from tintype.diagnosis.progress import chance_loss, has_not_learnt, held_out_gap, learnt_nothing
from tintype.records import EpochRecord, Health, InputHealth, LayerHealth

OF_TRAINING = [
    plant
    for plant in PLANTS
    if plant.code in {"few-steps", "learning-rate-low", "learning-rate-high", "overfitting", "underfitting"}
]
IMAGES = [100] * 4


@pytest.mark.parametrize("fault", OF_TRAINING, ids=lambda fault: fault.name)
def test_a_planted_fault_is_named_first(fault: Plant, tmp_path: Path) -> None:
    source, options = fault.write(tmp_path)
    run = tt.train(source, output=tmp_path / "run", **options)
    found = api.diagnose(run.path)
    assert [finding.code for finding in found][:1] == [fault.code]
    assert found[0] in run.findings
    assert found[0].evidence
    assert "--" in found[0].remedy or "fit." in found[0].remedy


def history(*losses: float, rate: float = 1e-3) -> tuple[EpochRecord, ...]:
    return tuple(
        EpochRecord(epoch, loss, 0.5, loss, 0.5, rate, 1.0, 100.0) for epoch, loss in enumerate(losses, start=1)
    )


def health(moved: float | None, gradient: float = 0.01) -> Health:
    seen = InputHealth("Linear", 0.0, 1.0, -2.0, 2.0)
    layer = LayerHealth("dense", "Linear", True, gradient, moved, parameters=100)
    return Health(128, seen, seen, 0.5, 0.5, 1.0, 1.0, (layer,))


def facts(
    right: float, elsewhere: float | None = None, losses: tuple[float, ...] = (1.0, 0.9), moved: float | None = 0.5,
    **settings: Any,
) -> Facts:  # fmt: skip
    given = {"fit.batch_size": 4, "fit.learning_rate": 1e-3}
    other = right if elsewhere is None else elsewhere
    return facts_of(
        {"train": IMAGES, "test": IMAGES}, recognised("train", IMAGES, [right] * 4),
        recognised("test", IMAGES, [other] * 4), history=history(*losses), health=health(moved),
        settings={**given, **{name.replace("__", "."): value for name, value in settings.items()}},
    )  # fmt: skip


def codes(found: Facts) -> list[str]:
    return [finding.code for rule in training.RULES if (finding := rule(found)) is not None]


def test_what_counts_as_learned() -> None:
    assert chance_loss(facts(1.0)) == pytest.approx(1.3863, abs=1e-4)
    assert learnt_nothing(facts(0.25))
    assert not learnt_nothing(facts(0.35))
    assert has_not_learnt(facts(0.5))  # a third of the way from 0.25 to 1
    assert not has_not_learnt(facts(0.65))
    gap = held_out_gap(facts(0.9, 0.6))
    assert gap is not None
    assert gap[0] == "test"
    assert gap[3].value == pytest.approx(0.3)


def test_a_good_run_has_nothing() -> None:
    assert codes(facts(0.97, 0.95)) == []
    assert codes(facts(0.97, 0.95, losses=(1.3, 9.0, 0.2), moved=5.0)) == []
    assert codes(replace(facts(0.97, 0.95), predictions={}, history=(), health=None)) == []


def test_overfitting_needs_more_than_the_interval() -> None:
    assert codes(facts(1.0, 0.8)) == ["overfitting"]
    found = training.overfitting(facts(1.0, 0.8))
    assert found is not None
    assert "20.0 points [16." in found.title
    assert codes(facts(1.0, 0.87)) == []  # 13 points, but perhaps no more than 9


def test_a_rate_that_is_too_low_is_told_from_too_few_steps() -> None:
    assert codes(facts(0.25, moved=0.001))[0] == "learning-rate-low"
    assert "learning-rate-low" not in codes(facts(0.25, moved=0.04, fit__batch_size=400))  # two steps
    assert "learning-rate-low" not in codes(facts(0.25, moved=None))
    dead = replace(facts(0.25), health=health(0.0, gradient=0.0))
    assert "learning-rate-low" not in codes(dead)
    falling = facts(0.4, losses=(1.4, 1.3, 1.2, 1.1), moved=0.3, fit__batch_size=100)
    assert codes(falling) == ["few-steps", "underfitting"]


@pytest.mark.parametrize(
    ("losses", "moved", "expected"),
    [
        ((300.0, 1.4, 1.39), 20.0, True),
        ((1.6, 1.4, 1.39), 20.0, False),  # a first epoch from unlucky weights
        ((300.0, 1.4, 1.39), 0.0, False),  # whatever it was, no step did it
        ((300.0, 1.4, 1.39), None, True),
    ],
)
def test_a_rate_that_is_too_high(losses: tuple[float, ...], moved: float | None, expected: bool) -> None:
    assert ("learning-rate-high" in codes(facts(0.25, losses=losses, moved=moved))) is expected


def test_a_fine_tuning_that_lost_what_the_head_had() -> None:
    lost = facts(0.5, losses=(0.1, 2.4, 2.3, 2.3), fit__head_epochs=1)
    history = (replace(lost.history[0], train_accuracy=0.99), *lost.history[1:])
    found = diagnose(replace(lost, history=history))
    assert [finding.code for finding in found] == ["fine-tuning-lost"]
    assert "0.990" in found[0].title
    assert "--freeze all" in found[0].remedy
    assert "fine-tuning-lost" not in codes(lost)  # the head was no better
    assert "fine-tuning-lost" not in codes(facts(0.97, losses=(0.1, 0.1), fit__head_epochs=1))


def test_epochs_that_do_not_show_the_data() -> None:
    partly = training.few_steps(facts(0.97, losses=(1.0,) * 40, fit__steps_per_epoch=10))
    assert partly is not None
    assert partly.severity == "warning"
    assert "10 steps of 4 images shows 40 of 400 training images (10%): 40 epochs were 4 passes" in partly.title
    unseen = training.few_steps(facts(0.97, losses=(1.0,) * 4, fit__steps_per_epoch=10))
    assert unseen is not None
    assert unseen.severity == "critical"
    assert "240 images were never seen" in unseen.title
    assert training.few_steps(facts(0.97, fit__steps_per_epoch=100)) is None
    assert training.few_steps(facts(0.97, fit__steps_per_epoch=300)) is None
    assert training.few_steps(facts(0.2, fit__optimizer="lbfgs", fit__steps_per_epoch=1)) is None


def test_underfitting_says_what_to_do_about_a_frozen_backbone() -> None:
    found = training.underfitting(facts(0.4, model__backbone="resnet20", model__freeze="all"))
    assert found is not None
    assert "--depth" in found.remedy
    nothing = training.underfitting(facts(0.25))
    assert nothing is not None
    assert nothing.severity == "critical"
