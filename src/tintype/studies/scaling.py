"""A study of scaling: what 1, 2, ... ranks gain in time, where a step's time goes, and what it costs in accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tintype.errors import ConfigError, TintypeError
from tintype.evaluation.scaling import ScalingPoint, measured_point, project, sharing
from tintype.evaluation.scaling_model import ASSUMPTIONS, OF_FACTORS
from tintype.ranks.joining import joined
from tintype.ranks.world import World, largest_part
from tintype.records import to_plain
from tintype.report.scalingfile import SCALING_FILE, SCALING_FORMAT, Scaling, read_scaling
from tintype.report.studyfile import study_table
from tintype.rundir import write_json, write_text
from tintype.studies.crew import Crew
from tintype.studies.folder import StudyFolder
from tintype.studies.plan import VARIANT, Study, make_axis
from tintype.studies.scaling_measure import Measurements
from tintype.studies.scaling_plan import ONE_RANK, RANKS, ScalingPlan
from tintype.studies.work import StudyResult, do_study
from tintype.training.scaling import Cell
from tintype.watch import Watch

SCALING = "scaling"
"""Name under which the settings of the measurement are kept among the requests."""


def run_scaling(study: Study, output: Path | None, watch: Watch, jobs: int = 1) -> StudyResult:
    """Make a study of scaling on all ranks that torchrun has started.

    Args:
        study: What to do; its points are made here.
        output: As for :func:`tintype.studies.runner.run_study`.
        watch: Progress, messages and stopping.
        jobs: Runs at a time: one.

    Raises:
        ConfigError: There is a single process, or more ranks are wanted than there are.
        TintypeError: As :func:`tintype.studies.runner.run_study`.
    """
    assert study.scaling is not None
    if jobs != 1:
        raise ConfigError("a study of scaling measures times, so its runs are made one after another. Take --jobs out.")
    with joined(study.base.parallel.patience_seconds) as world:
        if world.is_alone:
            raise ConfigError("a study of scaling needs several processes: give --workers 2, or start torchrun.")
        return _run_on(world, study, output, watch)


def _run_on(world: World, study: Study, output: Path | None, watch: Watch) -> StudyResult:
    study = with_ranks(study, world.size)
    crew = Crew(world, study.base.data.source, watch)
    if world.rank != 0:
        told = crew.follow()
        return StudyResult(Path(told["path"]), study_table(told["table"]))
    try:
        result = do_study(
            study, output, watch, make=crew.make_run, begin=lambda folder: _measure(study, folder, crew, watch)
        )
    except (TintypeError, KeyboardInterrupt) as error:
        crew.give_up(error)
        raise
    crew.finish({"path": str(result.path), "table": to_plain(result.table)})
    return result


def with_ranks(study: Study, size: int) -> Study:
    """The study with its points: how many ranks, and what each has of a step.

    Raises:
        ConfigError: More ranks are wanted than there are.
    """
    assert study.scaling is not None
    plan = study.scaling
    values = dict([ONE_RANK])
    for ranks in plan.ranks_of(size)[1:]:
        if "strong" in plan.modes:
            values[f"{ranks} ranks, one batch"] = {"parallel.workers": ranks}
        if "weak" in plan.modes:
            batch = study.base.fit.batch_size
            more: dict[str, Any] = {"parallel.scale_lr": True}
            if plan.weak_rate == "same":
                assert batch is not None, "checked when the file was read"
                more = {"fit.batch_size": batch * ranks}
            values[f"{ranks} ranks, a batch each"] = {"parallel.workers": ranks, **more}
    return replace(study, axes=(make_axis(VARIANT, RANKS, values),))


def _measure(study: Study, folder: StudyFolder, crew: Crew, watch: Watch) -> None:
    """Measure, unless that has been done with these settings on as many ranks."""
    assert study.scaling is not None
    config, plan = study.base.replace({"seed": next(iter(study.seeds), 0)}), study.scaling
    asked = {"ranks": crew.world.size, "plan": plan.to_plain()}
    if (folder.path / SCALING_FILE).is_file() and folder.was_asked_for(SCALING, config):
        kept = read_scaling(folder.path)
        if kept.asked == asked:
            watch.on_message(f"steps were measured already in {folder.path}")
            return
    found = crew.measure(config, plan)
    write_json(folder.path / SCALING_FILE, summary(study.name, found, plan, crew.world, asked))
    write_text(folder.request_file(SCALING), config.to_toml())


def summary(name: str, found: Measurements, plan: ScalingPlan, world: World, asked: dict[str, Any]) -> Scaling:
    """``scaling.json``: what was measured and what follows from it."""
    batch, alone = found.batch, found.cells[Cell(1, found.batch)]
    points: list[ScalingPoint] = []
    projections = []
    for mode in plan.modes:
        points.append(measured_point(mode, alone, alone, found.apart(1, batch), found.traffic(1, batch)))
        for ranks in plan.ranks_of(world.size)[1:]:
            share = (ranks, largest_part(batch, ranks) if mode == "strong" else batch)
            together = found.cells[Cell(ranks, batch if mode == "strong" else batch * ranks)]
            points.append(measured_point(mode, together, alone, found.apart(*share), found.traffic(*share)))
        for machines in plan.machines:
            share = (machines, largest_part(batch, machines) if mode == "strong" else batch)
            if (mode == "weak" or machines <= batch) and found.traffic(*share).wire is not None:
                projections.append(project(mode, machines, found.apart(*share), alone, found.traffic(*share)))
    return Scaling(
        format=SCALING_FORMAT,
        name=name,
        asked=asked,
        hosts=world.hosts,
        threads=found.threads,
        precision=found.precision,
        batch=batch,
        train_images=found.train_images,
        comm=found.comm,
        factored=found.sent_as_factors,
        gradient_bytes=found.gradient_bytes,
        wire=found.wire,
        link=found.link,
        sharing=sharing(found.apart(1, batch), alone),
        points=tuple(points),
        projections=tuple(projections),
        assumptions=(*ASSUMPTIONS, *((OF_FACTORS,) if found.sent_as_factors else ())) if projections else (),
    )
