"""The ranks of a study of scaling: rank 0 makes the study, the others do with it what it is at."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from tintype.config import RunConfig
from tintype.errors import NonFiniteError, RankError, RunInterrupted
from tintype.ranks.parts import first_ranks
from tintype.ranks.world import World
from tintype.studies.one import make_run
from tintype.studies.scaling_measure import Measurements, measure_scaling
from tintype.studies.scaling_plan import ScalingPlan
from tintype.watch import Watch


class Crew:
    """All ranks.

    Args:
        world: Of at least two ranks.
        source: Where this rank has the images.
        watch: Progress, messages and stopping.
    """

    def __init__(self, world: World, source: str, watch: Watch) -> None:
        self.world = world
        self._source = source
        # Rank 0 talks to the user; a run's other ranks write to its directory.
        self._watch = watch if world.rank == 0 else Watch(should_stop=watch.should_stop)
        self._parts: dict[int, World | None] = {}

    def measure(self, config: RunConfig, plan: ScalingPlan) -> Measurements:
        """Measure steps on all ranks; asked for by rank 0."""
        job = {"config": config.model_dump(mode="json"), "plan": plan.to_plain()}
        self.world.agree(job)
        return self._measure(job)

    def make_run(self, config: RunConfig, path: Path, watch: Watch) -> None:
        """Make a run on as many ranks as its settings say, or go on with it; asked for by rank 0."""
        job = {"config": config.model_dump(mode="json"), "path": str(path)}
        self.world.agree(job)
        self._make_run(job, watch)

    def finish(self, result: dict[str, Any]) -> None:
        """There is nothing left to do; told by rank 0 with what came of it."""
        self.world.agree({"result": result})

    def give_up(self, error: BaseException) -> None:
        """The study ends here; told by rank 0 to those who are still there."""
        kind = "stopped" if isinstance(error, RunInterrupted | KeyboardInterrupt) else "failed"
        with suppress(RuntimeError):  # a rank that met the same error has not waited to be told
            self.world.agree({kind: str(error)})

    def follow(self) -> dict[str, Any]:
        """Do what rank 0 asks for until there is nothing left.

        Returns:
            What came of it.

        Raises:
            RunInterrupted: Rank 0 was stopped.
            RankError: Rank 0 failed.
        """
        while True:
            job = self.world.agree(None)
            if "result" in job:
                result: dict[str, Any] = job["result"]
                return result
            if "stopped" in job:
                raise RunInterrupted(job["stopped"])
            if "failed" in job:
                raise RankError(job["failed"])
            # All ranks end so together, and rank 0 says what follows; any other error is this rank's own.
            with suppress(NonFiniteError, RunInterrupted):
                if "plan" in job:
                    self._measure(job)
                else:
                    self._make_run(job, self._watch)

    def _measure(self, job: dict[str, Any]) -> Measurements:
        plan = ScalingPlan.model_validate(job["plan"])
        return measure_scaling(self._config(job), plan, self.world, self._watch)

    def _make_run(self, job: dict[str, Any], watch: Watch) -> None:
        config = self._config(job)
        ranks = config.parallel.workers or 1
        if ranks not in self._parts:
            self._parts[ranks] = first_ranks(self.world, ranks)
        part = self._parts[ranks]
        if part is not None:
            make_run(config, Path(job["path"]), watch, part)

    def _config(self, job: dict[str, Any]) -> RunConfig:
        """The settings, with the images where this rank has them."""
        return RunConfig.model_validate(job["config"]).replace({"data.source": self._source})
