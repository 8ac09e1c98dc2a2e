"""Faults of the network: planted in real runs, each named first; and the rules' thresholds on made-up figures."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_facts import facts_of, recognised, rows
from planted_data import Plant
from planted_networks import PLANTS

import tintype as tt
from tintype import api
from tintype.diagnosis import EXPLAINS, RULES, data, diagnose, evidence, network, training
from tintype.diagnosis.facts import Facts
from tintype.errors import NonFiniteError
from tintype.records import Finding, Health, InputHealth, LayerHealth
from tintype.run import load_run

COLLAPSE = "frozen_norm"
"""Looked at more closely, in a test of its own."""

ELSEWHERE = ("few-steps", "learning-rate-low", "learning-rate-high", "overfitting", "underfitting")
OF_NETWORK = [plant for plant in PLANTS if plant.code not in ELSEWHERE and plant.name != COLLAPSE]
SOUND_INPUT = InputHealth("Conv2d", 0.0, 1.0, -2.0, 3.0)
SOUND = Health(
    128, SOUND_INPUT, SOUND_INPUT, 0.95, 0.97, 0.2, 0.1,
    (
        LayerHealth("conv", "Conv2d", True, 0.01, 0.5, 0.1, parameters=100),
        LayerHealth("bn", "BatchNorm2d", True, 0.01, None, 0.1, 0.2, 1.1, True, 20),
        LayerHealth("relu", "ReLU", False, dead=0.4),
        LayerHealth("output", "Linear", True, 0.01, 0.9, 0.0, parameters=30),
    ),
)  # fmt: skip


def plant(fault: Plant, folder: Path) -> list[Finding]:
    """Train with a fault, and give what the diagnosis says of what is left."""
    source, options = fault.write(folder)
    with suppress(NonFiniteError):
        tt.train(source, output=folder / "run", **options)
    return api.diagnose(folder / "run")


@pytest.mark.parametrize("fault", OF_NETWORK, ids=lambda fault: fault.name)
def test_a_planted_fault_is_named_first(fault: Plant, tmp_path: Path) -> None:
    found = plant(fault, tmp_path)
    assert [finding.code for finding in found][:1] == [fault.code]
    assert found[0].severity != "info"
    assert found[0].evidence
    assert "--" in found[0].remedy or "in the model" in found[0].remedy  # an option, or a place in the user's code
    assert "\n" not in found[0].title + found[0].remedy
    left = json.loads((tmp_path / "run" / "findings.json").read_text())
    assert [item["code"] for item in left].count(fault.code) == 1


def test_a_network_that_is_right_in_training_and_guesses_in_evaluation_is_explained(tmp_path: Path) -> None:
    fault = next(plant for plant in PLANTS if plant.name == COLLAPSE)
    found = plant(fault, tmp_path)
    run = load_run(tmp_path / "run")
    assert run.history[-1].train_accuracy > 0.9
    assert run.evaluation.accuracy.value < 0.2  # of ten classes
    assert [finding.code for finding in found] == ["frozen-batch-statistics"]
    assert "used the statistics of each batch in training" in found[0].title
    assert ".eval()" in found[0].remedy


def test_every_rule_has_its_place_and_no_two_causes_explain_each_other() -> None:
    of_modules = [rule for module in (network, data, training, evidence) for rule in module.RULES]
    assert sorted(rule.__name__ for rule in RULES) == sorted(rule.__name__ for rule in of_modules)
    for code, explained in EXPLAINS.items():
        assert code not in explained
        for other in explained:
            assert code not in EXPLAINS.get(other, ()), (code, other)


def with_health(health: Health | None, right: float = 0.97, train_row: float = 0.95) -> Facts:
    images = [200, 200]
    return facts_of(
        {"train": images, "test": images}, recognised("train", images, [right, right]),
        recognised("test", images, [right, right]), history=rows([0.8, train_row], [0.8, train_row]), health=health,
    )  # fmt: skip


def codes(facts: Facts) -> list[str]:
    return [finding.code for rule in network.RULES if (finding := rule(facts)) is not None]


def layers(health: Health, **changes: Any) -> Health:
    """The health with its BatchNorm changed."""
    changed = tuple(replace(layer, **changes) if layer.kind == "BatchNorm2d" else layer for layer in health.layers)
    return replace(health, layers=changed)


def test_a_sound_network_has_nothing() -> None:
    assert codes(with_health(SOUND)) == []
    assert codes(with_health(None)) == []


@pytest.mark.parametrize(
    ("reaching", "expected"),
    [
        (InputHealth("Conv2d", 110.0, 60.0, 0.0, 255.0), ["input-scale"]),
        (InputHealth("Conv2d", 0.0, 12.0, -30.0, 30.0), ["input-scale"]),
        (InputHealth("BatchNorm2d", 110.0, 60.0, 0.0, 255.0), []),
        (InputHealth("Conv2d", 0.4, 0.3, 0.0, 1.0), []),
        (InputHealth("Conv2d", 0.9, 0.05, 0.7, 1.0), []),
        (InputHealth("Conv2d", 0.002, 0.001, 0.0, 0.004), ["input-scale"]),
    ],
)
def test_the_scale_of_the_inputs(reaching: InputHealth, expected: list[str]) -> None:
    health = replace(SOUND, training_input=reaching, inference_input=reaching)
    assert codes(with_health(health)) == expected


@pytest.mark.parametrize(
    ("training_input", "expected"),
    [
        (InputHealth("Conv2d", 0.02, 1.41, -4.0, 6.0), []),  # dropout of half the pixels
        (InputHealth("Conv2d", 0.0, 2.5, -6.0, 8.0), ["input-differs"]),
        (InputHealth("Conv2d", -0.8, 1.0, -3.0, 2.0), ["input-differs"]),
    ],
)
def test_inputs_that_differ_by_mode(training_input: InputHealth, expected: list[str]) -> None:
    assert codes(with_health(replace(SOUND, training_input=training_input))) == expected


def test_the_modes_are_compared_on_the_same_images_and_on_all() -> None:
    lost = replace(SOUND, training_accuracy=0.95, inference_accuracy=0.5)
    assert codes(with_health(lost)) == ["modes-differ"]
    assert codes(with_health(replace(lost, images=4))) == []  # 4 images prove nothing
    assert codes(with_health(SOUND, right=0.5, train_row=0.95)) == ["modes-differ"]
    assert codes(with_health(SOUND, right=0.9, train_row=0.95)) == []


def test_running_statistics_are_named_where_they_do_harm() -> None:
    off = layers(SOUND, mean_gap=4.0)
    assert codes(with_health(off)) == []
    lost = replace(off, training_accuracy=0.95, inference_accuracy=0.5)
    found = diagnose(with_health(lost, right=0.5))
    assert [finding.code for finding in found] == ["running-statistics"]
    assert "4.00 running deviations" in "\n".join(found[0].evidence)
    frozen = layers(lost, trains=False)
    assert [finding.code for finding in diagnose(with_health(frozen, right=0.5))] == ["frozen-batch-statistics"]
    harmless = network.frozen_batch_statistics(with_health(layers(SOUND, trains=False)))
    assert harmless is not None
    assert harmless.severity == "warning"
    stuck = layers(SOUND, mean_gap=4.0, trains=False, batch_statistics=False)
    assert codes(with_health(stuck, right=0.5, train_row=0.5)) == ["running-statistics"]


def test_a_frozen_part_with_weights_from_elsewhere_is_no_fault() -> None:
    def frozen(loaded: bool | None) -> Health:
        rows = [
            replace(layer, trains=False, loaded=loaded) if layer.kind == "Conv2d" else layer
            for layer in SOUND.layers
            if layer.kind != "BatchNorm2d"
        ]
        return replace(SOUND, layers=tuple(rows))

    for loaded in (False, None):
        assert codes(with_health(frozen(loaded), right=0.3, train_row=0.3))[:1] == ["frozen-untrained"]
    assert "frozen-untrained" not in codes(with_health(frozen(True), right=0.3, train_row=0.3))


def test_dead_layers_count_only_where_nothing_is_learned() -> None:
    quiet = replace(
        SOUND, layers=tuple(replace(layer, dead=1.0) if layer.kind == "ReLU" else layer for layer in SOUND.layers)
    )
    assert codes(with_health(quiet)) == []
    found = network.dead_units(with_health(quiet, right=0.5, train_row=0.5))
    assert found is not None
    assert "layer relu (ReLU)" in found.title


def test_a_non_finite_loss_is_told_of_a_run_that_did_not_end() -> None:
    finding = Finding("non-finite-layer", "critical", "no", ("x",), "do")
    unfinished = replace(with_health(None), predictions={}, findings=(finding,))
    assert diagnose(unfinished) == [finding]
    assert network.not_finite(replace(with_health(SOUND), findings=(finding,))) is None
