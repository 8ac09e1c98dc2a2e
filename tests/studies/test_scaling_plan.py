"""Studies of scaling: their file, the points that the ranks make of it, and what takes turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tintype.errors import ConfigError
from tintype.evaluation.scaling import Block, Measured
from tintype.evaluation.scaling_model import Link, Traffic
from tintype.studies import run_study
from tintype.studies.file import load_study
from tintype.studies.scaling import with_ranks
from tintype.studies.scaling_cells import cells_of
from tintype.studies.scaling_measure import Measurements
from tintype.studies.scaling_plan import ScalingPlan
from tintype.training.scaling import Cell

FILE = """
name = "two machines"
kind = "scaling"
seeds = 2
[scaling]
machines = [2, 4]
{more}
[base]
data.source = "photos"
fit.batch_size = 8
{base}
[quick]
scaling.blocks = 2
fit.epochs = 1
"""


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def written(more: str = "", base: str = "", text: str = FILE) -> Path:
        path = tmp_path / "study.toml"
        path.write_text(text.format(more=more, base=base), encoding="utf-8")
        return path

    return written


def plan(**settings: object) -> ScalingPlan:
    return ScalingPlan.model_validate(settings)


def test_the_points_are_the_ranks_in_each_mode(write) -> None:  # type: ignore[no-untyped-def]
    study = with_ranks(load_study(write()), 3)
    assert [point.label for point in study.points()] == [
        "1 rank", "2 ranks, one batch", "2 ranks, a batch each", "3 ranks, one batch", "3 ranks, a batch each",
    ]  # fmt: skip
    assert study.reference.label == "1 rank"
    configs = {point.label: study.config_of(point, 0) for point in study.points()}
    assert [configs[label].parallel.workers for label in configs] == [1, 2, 2, 3, 3]
    assert [configs[label].parallel.scale_lr for label in configs] == [False, False, True, False, True]
    assert len(study.requests()) == 10


def test_a_batch_each_at_the_rate_of_one_is_a_larger_batch(write) -> None:  # type: ignore[no-untyped-def]
    study = with_ranks(load_study(write('weak_rate = "same"\nmodes = ["weak"]')), 2)
    config = study.config_of(study.points()[1], 0)
    assert (config.fit.batch_size, config.parallel.scale_lr) == (16, False)


def test_no_seeds_means_no_runs(write) -> None:  # type: ignore[no-untyped-def]
    study = with_ranks(load_study(write(text=FILE.replace("seeds = 2", "seeds = 0"))), 2)
    assert study.requests() == ()
    assert study.changes_of(study.points()[1]) == "workers 2 instead of 1"


def test_the_file_that_is_kept_repeats_the_study(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    study = with_ranks(load_study(write("ranks = [1, 2]"), quick=True), 2)
    assert study.scaling is not None
    assert study.scaling.blocks == 2
    kept = tmp_path / "kept.toml"
    kept.write_text(study.to_toml(), encoding="utf-8")
    again = with_ranks(load_study(kept), 2)
    assert again.scaling == study.scaling
    assert [request.config for request in again.requests()] == [request.config for request in study.requests()]


@pytest.mark.parametrize(
    ("more", "base", "words"),
    [
        ("", "parallel.workers = 2", "take parallel.workers out"),
        ("blocks = 1", "", "greater than or equal to 2"),
        ('modes = ["fast"]', "", "scaling.modes"),
        ("speed = 1", "", "scaling.speed"),
    ],
)
def test_mistakes_in_the_file_are_one_line(write, more: str, base: str, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError) as caught:
        load_study(write(more, base))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_axes_belong_to_other_studies_and_scaling_to_this_one(write) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="take axes out"):
        load_study(write(text=FILE + '[axes]\n"fit.epochs" = [1, 2]\n'))
    with pytest.raises(ConfigError, match="belongs to a study of kind"):
        load_study(write(text=FILE.replace('kind = "scaling"', 'kind = "grid"') + '[axes]\n"fit.epochs" = [1, 2]\n'))


def test_a_single_process_is_told_how_to_start(write) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="--workers 2"):
        run_study(load_study(write()))


def test_more_ranks_than_there_are_are_refused() -> None:
    assert plan().ranks_of(3) == (1, 2, 3)
    assert plan(ranks=[4, 2]).ranks_of(4) == (1, 2, 4)
    with pytest.raises(ConfigError, match="from 1 to 2"):
        plan(ranks=[4]).ranks_of(2)


def test_what_takes_turns_holds_every_share_that_is_projected() -> None:
    cells = cells_of(plan(machines=[2, 4, 16]), (1, 2, 3), batch=8, train_images=24, factored={})
    assert cells == [
        Cell(1, 8), Cell(2, 8), Cell(3, 8), Cell(2, 16), Cell(3, 24), Cell(0, 8), Cell(0, 4), Cell(0, 3), Cell(0, 2),
    ]  # fmt: skip
    assert cells_of(plan(modes=["weak"]), (1, 2), 8, 16, {}) == [Cell(1, 8), Cell(2, 16), Cell(0, 8)]


def test_a_rank_by_itself_sends_what_it_sends_among_several() -> None:
    """Two ranks send factors and eight do not: both kinds of a rank by itself are measured."""
    factored = {(1, 8): ("body.dense1",), (2, 8): ("body.dense1",), (8, 8): ()}
    cells = cells_of(plan(modes=["weak"], machines=[2, 8]), (1, 2), 8, 16, factored)
    assert cells == [Cell(1, 8), Cell(2, 16), Cell(0, 8, has_factors=True), Cell(0, 8)]


@pytest.mark.parametrize(
    ("names", "wire", "has_factors"),
    [(("body.dense1", "body.dense2"), 0.5, True), ((), 0.5, False), (("body.dense1",), None, True)],
)
def test_what_travels_is_told_where_a_rank_by_itself_shows_it(
    names: tuple[str, ...], wire: float | None, has_factors: bool
) -> None:
    """Alone both dense layers would send factors; among eight ranks both, none, or the larger one."""
    link, blocks = Link(1e6, 0.001, 0.0), (Block(1.0, ()),)
    cells = {Cell(0, 8, True): Measured(1, 8, blocks), Cell(0, 8): Measured(1, 8, ())}
    both = ("body.dense1", "body.dense2")
    found = Measurements(
        cells, link, 8, 0.5, "bf16", {(1, 8): both, (8, 8): names}, {(1, 8): 0.0, (8, 8): 0.25}, 1000, "bf16", 1, 64
    )
    assert found.traffic(8, 8) == Traffic(link, wire, 0.25)
    assert found.apart(8, 8) is cells[Cell(0, 8, has_factors)]
    assert found.sent_as_factors == names


def test_too_few_images_for_all_ranks_are_refused() -> None:
    with pytest.raises(ConfigError, match="takes 24 images, and there are 20"):
        cells_of(plan(), (1, 3), 8, 20, {})
    with pytest.raises(ConfigError, match="cannot be shared by 9 ranks"):
        cells_of(plan(modes=["strong"]), (1, 9), 8, 20, {})
