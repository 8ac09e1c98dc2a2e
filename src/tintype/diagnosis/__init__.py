"""What went wrong in a run, or may have: rules over the files of its directory, each with evidence and a remedy."""

from __future__ import annotations

from tintype.diagnosis import data, evidence, network, training
from tintype.diagnosis.facts import Facts, Rule
from tintype.records import Finding

RULES: tuple[Rule, ...] = (
    *network.RULES,
    *data.RULES,
    *training.CAUSES,
    evidence.labels_do_not_fit,
    evidence.leakage,
    evidence.validation_leakage,
    evidence.accuracy_hides_classes,
    *training.OUTCOMES,
    evidence.small_test_set,
    evidence.shortcut,
    evidence.validation_far_from_test,
)
"""Every rule, root causes first: a network that cannot work, images that do not fit, a training that went wrong, and
then what the figures are worth."""

EXPLAINS: dict[str, tuple[str, ...]] = {
    **network.EXPLAINS,
    **data.EXPLAINS,
    **training.EXPLAINS,
    **evidence.EXPLAINS,
}
"""Codes of findings to codes of what follows from them and is not said beside them."""


def diagnose(facts: Facts) -> list[Finding]:
    """What the files of a run say about what went wrong, root causes first; what a cause explains is left out."""
    found = [finding for rule in RULES if (finding := rule(facts)) is not None]
    explained = {code for finding in found for code in EXPLAINS.get(finding.code, ())}
    return [finding for finding in found if finding.code not in explained]
