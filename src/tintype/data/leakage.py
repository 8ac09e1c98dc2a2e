"""What copies of images mean: test images that were trained on, contradictory labels, images counted twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tintype.data.duplicates import Duplicates
from tintype.data.index import SPLIT_IDS, ImageIndex, counted, shown
from tintype.records import SPLITS, Finding

TRAIN, VALIDATION, TEST = SPLIT_IDS["train"], SPLIT_IDS["validation"], SPLIT_IDS["test"]
CRITICAL_SHARE = 0.05
"""Share of the test images from which on the test figures cannot be trusted."""
_MOST_EVIDENCE = 24


@dataclass(frozen=True)
class Placed:
    """The images of all splits, M of them, in the order in which copies were searched.

    Attributes:
        index: The images.
        rows: Positions in the index, int64, shape (M,).
        part: Split id of each, int8, shape (M,).
    """

    index: ImageIndex
    rows: NDArray[np.int64]
    part: NDArray[np.int8]

    def name(self, place: int) -> str:
        """Identifier of an image, fit for one line."""
        return shown(self.index.paths[int(self.rows[place])])

    def class_of(self, place: int) -> str:
        """Class name of an image, fit for one line."""
        return shown(self.index.classes[int(self.index.labels[self.rows[place]])])


def copies_findings(placed: Placed, copies: Duplicates) -> tuple[list[Finding], NDArray[np.int64]]:
    """Findings about copies, and the places of the test images that were trained or chosen on, ascending."""
    findings = []
    leaked, partner = _also_in(placed, copies, TEST, (TRAIN, VALIDATION))
    tests = int((placed.part == TEST).sum())
    if len(leaked):
        share = len(leaked) / tests
        findings.append(
            Finding(
                "leakage",
                "critical" if share >= CRITICAL_SHARE else "warning",
                f"{len(leaked):,} of {counted(tests, 'test image')} ({100 * share:.2g} %) "
                f"{'stands' if len(leaked) == 1 else 'stand'} in training or validation too"
                f"{_kinds(copies, leaked, partner)}",
                _first(_pair(placed, copies, int(one), int(other)) for one, other in zip(leaked, partner, strict=True)),
                "What was trained on is no test. The accuracy is given with and without these images; remove the "
                "copies from one side, or give copies and views of the same thing one group in a manifest.",
            )
        )
    chosen_on, origin = _also_in(placed, copies, VALIDATION, (TRAIN,))
    if len(chosen_on):
        validations = int((placed.part == VALIDATION).sum())
        findings.append(
            Finding(
                "validation-leakage",
                "warning",
                f"{len(chosen_on):,} of {counted(validations, 'validation image')} "
                f"{'stands' if len(chosen_on) == 1 else 'stand'} in training too{_kinds(copies, chosen_on, origin)}",
                _first(
                    _pair(placed, copies, int(one), int(other)) for one, other in zip(chosen_on, origin, strict=True)
                ),
                "Validation figures are too good by these images, and the choice of the best epoch leans on them. "
                "Remove the copies from one side, or give copies one group in a manifest.",
            )
        )
    return [*findings, *_contradictions(placed, copies), *_within_splits(placed, copies)], leaked


def _also_in(
    placed: Placed, copies: Duplicates, part: int, others: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in ``part`` with a copy in one of the other parts, and the place of such a copy."""
    stand_in = _member(placed, copies, others)  # of each group of equal files, by the place of its first
    partner = stand_in.copy()
    for one, other in ((0, 1), (1, 0)):
        ours, theirs = copies.pairs[:, one], stand_in[copies.pairs[:, other]]
        is_new = (partner[ours] < 0) & (theirs >= 0)
        partner[ours[is_new]] = theirs[is_new]
    places = np.flatnonzero((placed.part == part) & (partner[copies.first] >= 0)).astype(np.int64)
    return places, partner[copies.first[places]]


def _member(placed: Placed, copies: Duplicates, parts: tuple[int, ...]) -> NDArray[np.int64]:
    """The first place in the given parts of each group of equal files, at the group's place; -1 where there is none."""
    member = np.full(len(placed.rows), -1, dtype=np.int64)
    places = np.flatnonzero(np.isin(placed.part, parts))[::-1]
    member[copies.first[places]] = places  # the last write stays: the first place
    return member


def _contradictions(placed: Placed, copies: Duplicates) -> list[Finding]:
    """Copies with two labels. Where only the detail is alike, as in views of one scene, labels may rightly differ."""
    labels = placed.index.labels[placed.rows]
    equal = np.stack([np.arange(len(labels)), copies.first], axis=1)
    edges = np.concatenate([equal, copies.pairs[copies.is_close]])
    edges = edges[labels[edges[:, 0]] != labels[edges[:, 1]]]
    if not len(edges):
        return []
    return [
        Finding(
            "contradictory-labels",
            "warning",
            f"{counted(len(edges), 'pair')} of copies with two different labels",
            _first(
                f"{_pair(placed, copies, int(one), int(other))} "
                f"({placed.class_of(int(one))} and {placed.class_of(int(other))})"
                for one, other in edges
            ),
            "One label of each pair is likely to be wrong. Look at them, and remove or relabel one of each.",
        )
    ]


def _within_splits(placed: Placed, copies: Duplicates) -> list[Finding]:
    counts = {}
    evidence: list[str] = []
    for name in SPLITS:
        places = np.flatnonzero(placed.part == SPLIT_IDS[name])
        member = _member(placed, copies, (SPLIT_IDS[name],))
        near = member[copies.pairs]
        edges = np.concatenate(
            [np.stack([places, member[copies.first[places]]], axis=1), near[(near >= 0).all(axis=1)]]
        )
        # Of a set of copies all but one are superfluous.
        size = len(placed.rows)
        graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(size, size))
        sets = connected_components(graph, directed=False)[1][places]
        superfluous = len(places) - len(np.unique(sets))
        if superfluous:
            counts[name] = superfluous
            evidence += [_pair(placed, copies, int(one), int(other)) for one, other in edges if one != other][
                :_MOST_EVIDENCE
            ]
    if not counts:
        return []
    where = ", ".join(f"{number:,} in {name}" for name, number in counts.items())
    total = sum(counts.values())
    return [
        Finding(
            "duplicates-within-splits",
            "info",
            f"{counted(total, 'image')} {'is a copy of another' if total == 1 else 'are copies of others'} in the same "
            f"split ({where})",
            _first(evidence),
            "Copies count more than once, in training and in every figure. Remove them where that is not meant.",
        )
    ]


def _kinds(copies: Duplicates, places: NDArray[np.int64], partners: NDArray[np.int64]) -> str:
    exact = int((copies.first[places] == copies.first[partners]).sum())
    near = len(places) - exact
    kinds = ((exact, "the same file", "the same files"), (near, "a near-duplicate", "near-duplicates"))
    named = [f"{number:,} as {one if number == 1 else many}" for number, one, many in kinds if number]
    return f" ({', '.join(named)})"


def _pair(placed: Placed, copies: Duplicates, one: int, other: int) -> str:
    first, second = int(copies.first[one]), int(copies.first[other])
    if first == second:
        relation = "the same file as"
    else:
        is_pair = (np.sort(copies.pairs, axis=1) == sorted((first, second))).all(axis=1)
        relation = "nearly the same as" if copies.is_close[is_pair].any() else "very much like"
        if copies.is_mirrored[is_pair].any():
            relation = "a mirror image of"
    return f"{placed.name(one)} is {relation} {placed.name(other)}"


def _first(evidence: Iterable[str]) -> tuple[str, ...]:
    return tuple(islice(evidence, _MOST_EVIDENCE))
