"""The search: candidates one after another, or many heads at once, until the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tintype.errors import RunInterrupted
from tintype.report import text
from tintype.tuning.book import RESULT, Entry, entries_of, facts_of, far_behind
from tintype.tuning.budget import Clock, Schedule, Stage
from tintype.tuning.folder import TuneFolder
from tintype.tuning.heads import HeadBatch
from tintype.tuning.score import Failed, Score
from tintype.tuning.space import Candidate, Space
from tintype.tuning.storage import Ledger
from tintype.tuning.trainer import SLOW, Trained, Trainer, failure
from tintype.tuning.transferspace import FINE_TUNING, HEAD, TransferSpace

if TYPE_CHECKING:
    from optuna import Trial

HEADS_AT_ONCE = 32
FEATURE_PARAMETERS = ("what", "model.backbone", "data.side", "fit.views")
"""What heads that train together have in common."""

IDLE_BATCHES = 3
"""So many batches of heads without a better one, and the backbone's turn has come."""

HEADS_SHARE = 0.5
"""Most of the searching time that heads take, where there is something else to try."""

FEATURES_SHARE = 0.35
"""Most of the searching time that one set of features takes."""

LATE_SHARE = 0.02
"""Of the searching time by which what is under way may be late before it is given up."""

WAIT_SECONDS = 0.5
"""Between two looks at what other workers do."""

CLOSED = "closed"
"""Attribute of a study whose time is up: nothing more is drawn, only finalists are trained again."""

ENDED = "ended"
"""Attribute of a study whose winner is chosen."""


@dataclass
class Search:
    """One worker's part in a search.

    Attributes:
        trainer: Trains candidates.
        space: What they are drawn from.
        ledger: What was tried, by all workers.
        schedule: When to stop.
        clock: Seconds since the search began.
        folder: Where weights are kept.
        wanted: Trials to be finished; None: only time counts.
        after_trial: Called when a trial has ended.
        dear: Backbones that are not to be fine-tuned for this budget, each with the reason.
        extra: Seconds that judging what trains in steps takes beyond what the schedule keeps.
        until: When the finalists' trainings with other seeds must end; None before it is their turn.
    """

    trainer: Trainer
    space: Space
    ledger: Ledger
    schedule: Schedule
    clock: Clock
    folder: TuneFolder
    wanted: int | None
    after_trial: Callable[[], None]
    dear: Mapping[str, str] = field(default_factory=dict)
    extra: float = 0.0
    until: float | None = None
    has_any: bool = False
    has_stepped: bool = False
    best: tuple[float, float] | None = None
    heads: HeadBatch = field(init=False)
    view_seconds: dict[tuple[str, int | None], float] = field(default_factory=dict)
    idle_batches: int = 0
    best_head: Score | None = None
    best_stepped: Score | None = None

    def __post_init__(self) -> None:
        self.heads = HeadBatch(self.trainer.prepared, self.trainer.watch)
        done = [entry for entry in self.entries() if entry.competes]
        self.has_any = self.has_stepped = bool(done)
        self.best = max((entry.key for entry in done if self.folder.kept(entry.number)), default=None)

    def run(self) -> None:
        """Try candidates until time is up, enough were tried, or another worker has closed the search.

        Raises:
            RunInterrupted: It was asked to stop; trials in hand are tried again on resuming.
        """
        while not self.is_over():
            self.turn()

    def is_over(self) -> bool:
        """Whether nothing more is to be begun."""
        if self.trainer.watch.should_stop():
            raise RunInterrupted("stopped between two trials.")
        if self.time_left() < self.schedule.stages[0].seconds or self.ledger.attributes.get(CLOSED):
            return True
        return self.wanted is not None and self._drawn() >= self.wanted

    def _drawn(self) -> int:
        """Candidates that were drawn and ended, by all workers."""
        drawn = (item for item in entries_of(self.ledger.trials()) if item.role == "search")
        return sum(item.state in ("complete", "pruned", "failed") for item in drawn)

    def time_left(self) -> float:
        """Seconds for searching, or for training finalists again; all there are while nothing has been trained."""
        return (self._search_ends() if self.until is None else self.until) - self.clock.seconds

    def _search_ends(self) -> float:
        """Seconds from the beginning. A head needs no longer training, so where heads lead its time is for the search.

        Heads tell nothing of how slow the machine has become, so that twice the time for judging is left.
        """
        if not self.has_any:
            return self.schedule.ends
        if isinstance(self.space, TransferSpace) and self.best_head is None:
            return self.schedule.ends - self.extra  # whether heads lead is not known before there is one
        if self.heads_lead():
            return self.schedule.search_ends + max(0.0, self.schedule.final - self.schedule.closing)
        return self.schedule.search_ends - (self.extra if self.has_stepped else 0.0)

    def heads_lead(self) -> bool:
        """Whether no last training is to be expected: what trains in steps is left behind, or is not asked for."""
        head, stepped = self.best_head, self.best_stepped
        if head is None:
            return False
        if stepped is None:
            return isinstance(self.space, TransferSpace) and (self.space.heads_only or self._too_late_to_tune())
        return stepped.interval.high < head.interval.low

    def _too_late_to_tune(self) -> bool:
        """Whether there is no time to fine-tune a backbone and to judge it."""
        return self.clock.seconds + self.schedule.stages[0].seconds > self.schedule.search_ends - self.extra

    def _note_leader(self, score: Score, trains_in_steps: bool) -> None:
        self.has_any = True
        if trains_in_steps:
            self.has_stepped = True
            self.best_stepped = max(self.best_stepped or score, score, key=lambda item: item.key)
        else:
            self.best_head = max(self.best_head or score, score, key=lambda item: item.key)

    def turn(self) -> None:
        """One trial, or a batch of heads."""
        if not isinstance(self.space, TransferSpace):
            self.do(self.ledger.ask()[0])
        elif not (tuned := self._tuned()) or self._heads_are_next():
            self._heads_turn()
        else:
            self.do(self.ledger.ask(fixed={"what": FINE_TUNING, **_only(tuned)})[0])

    def _tuned(self) -> list[str]:
        """The backbones that are worth fine-tuning."""
        assert isinstance(self.space, TransferSpace)
        if self.space.heads_only or self._too_late_to_tune():
            return []
        return [name for name in self._near() if name not in self.dear]

    def _near(self) -> list[str]:
        """The backbones that are not far behind another."""
        assert isinstance(self.space, TransferSpace)
        behind = far_behind(self.entries())
        return [backbone for backbone in self.space.backbones if backbone not in behind]

    def _heads_are_next(self) -> bool:
        # One batch always: it takes seconds on the features that the logistic head has.
        spent = self.heads.kept and self.clock.seconds > HEADS_SHARE * self.schedule.search_ends
        return self.idle_batches < IDLE_BATCHES and not spent

    def _heads_turn(self) -> None:
        """As many heads as train together, on the features that the first of them draws."""
        first = self.ledger.ask(fixed={"what": HEAD, **_only(self._near())})[0]
        candidate = self._drawn_candidate(first)
        if candidate is None or not candidate.features:
            self.do(first)
            return
        if self._is_dear(candidate):
            self.ledger.note(first, settings=candidate.settings, cause="its features take too long for this budget")
            self.ledger.tell(first, pruned=True)
            return
        shared: dict[str, Any] = {name: first.params[name] for name in FEATURE_PARAMETERS if name in first.params}
        left = HEADS_AT_ONCE if self.wanted is None else self.wanted - self._drawn()
        missing = max(0, min(HEADS_AT_ONCE, left) - 1)
        others = self.ledger.ask(missing, fixed=shared) if missing else []
        drawn = [(trial, self._drawn_candidate(trial)) for trial in others]
        groups: dict[str, list[tuple[Trial, Candidate]]] = {candidate.features: [(first, candidate)]}
        for trial, other in drawn:
            if other is not None and other.features:
                groups.setdefault(other.features, []).append((trial, other))
        for group in groups.values():
            self._score_heads(group)
        for trial, other in drawn:
            if other is None or not other.features:  # it had been waiting, and is no head
                self.do(trial)

    def _drawn_candidate(self, trial: Trial) -> Candidate | None:
        """What a trial draws; None for one that was asked for by name."""
        if "role" in trial.user_attrs:
            return None
        with self.ledger.explained():
            return self.space.draw(trial)

    def _is_dear(self, candidate: Candidate) -> bool:
        """Whether frozen layers would take too much of the time for a candidate's features."""
        if candidate.features in self.heads.kept:
            return False
        views: int = candidate.settings["fit.views"]
        a_view = self.view_seconds.get(_seen_by(candidate.settings), 0.0)
        return views * a_view > min(self._features_limit(), self.time_left())

    def _features_limit(self) -> float:
        """Seconds that one set of features may take."""
        return FEATURES_SHARE * self._search_ends()

    def _score_heads(self, batch: list[tuple[Trial, Candidate]]) -> None:
        candidates, settings = [item for _, item in batch], batch[0][1].settings
        is_new, began = candidates[0].features not in self.heads.kept, self.clock.seconds
        limit, cause = self.time_left(), "the time was up"
        if is_new and self._features_limit() < limit:
            limit, cause = self._features_limit(), "its features took too long for this budget"

        def is_too_late() -> bool:
            return self.clock.seconds - began > limit

        scores: list[Score | Failed]
        try:
            scores = self.heads.score(
                candidates, self.trainer.base.seed, lambda: self.trainer.watch.should_stop() or is_too_late()
            )
        except RunInterrupted:
            if self.trainer.watch.should_stop():
                raise
            scores = [Failed(cause, is_slow=True)] * len(batch)
        except Exception as error:
            scores = [failure(error)] * len(batch)
        if is_new:  # the heads' own seconds are few beside those of a whole pass
            seen = _seen_by(settings)
            a_view = (self.clock.seconds - began) / settings["fit.views"]
            self.view_seconds[seen] = max(self.view_seconds.get(seen, 0.0), a_view)
        better = False
        for (trial, candidate), score in zip(batch, scores, strict=True):
            better |= self._tell_head(trial, candidate, score)
        self.idle_batches = 0 if better else self.idle_batches + 1
        self.after_trial()

    def _tell_head(self, trial: Trial, candidate: Candidate, score: Score | Failed) -> bool:
        """Write a head down; True where it is the best so far."""
        if isinstance(score, Failed):
            self.ledger.note(trial, settings=candidate.settings)
            self._tell_failed(trial, score)
            return False
        facts = facts_of(score, len(self.schedule.stages), candidate.settings, self.clock.seconds)
        self.ledger.note(trial, settings=candidate.settings, **{RESULT: {**facts, "spent": score.seconds}})
        self.ledger.tell(trial, score.accuracy)
        if is_best := self.best_head is None or score.key > self.best_head.key:
            self._say(trial, score)
        self._note_leader(score, trains_in_steps=False)
        return is_best

    def do(self, trial: Trial) -> None:
        """Train one trial, in as many stages as it deserves."""
        role = trial.user_attrs.get("role", "search")
        if role == "search":
            self._do_drawn(trial)
        elif role == "logistic":  # one layer has learnt what it can long before a network has
            self._through_stages(trial, trial.user_attrs["settings"], self.schedule.stages[-2:-1])
        else:
            self._through_stages(trial, trial.user_attrs["settings"], self.schedule.stages[-1:])
        self.after_trial()

    def _do_drawn(self, trial: Trial) -> None:
        candidate = self._drawn_candidate(trial)
        assert candidate is not None
        if isinstance(self.space, TransferSpace) and not candidate.features:
            why = {**far_behind(self.entries()), **self.dear}.get(candidate.settings["model.backbone"])
            if why is None and self._too_late_to_tune():
                why = "no time left to train and to judge it"
            if why is not None:
                self.ledger.note(trial, settings=candidate.settings, cause=why)
                self.ledger.tell(trial, pruned=True)
                return
            self.has_stepped = True
        self._through_stages(trial, candidate.settings, self.schedule.stages)

    def _through_stages(self, trial: Trial, settings: Mapping[str, Any], stages: Sequence[Stage]) -> None:
        """Train in one stage after the other, each anew and longer, until the pruner or the time says no."""
        spent, trained, slow = 0.0, None, Failed("")
        is_drawn = trial.user_attrs.get("role", "search") == "search"
        self.ledger.note(trial, settings=settings)
        for stage in stages:
            if is_drawn and stage.number > 1 and stage.seconds * self.trainer.slowness > self.time_left():
                self.ledger.note(trial, cause=f"no time left for stage {stage.number}")
                self.ledger.tell(trial, pruned=True)
                return
            result = slow if slow.needs > SLOW * stage.seconds else self._train(trial, settings, stage)
            is_last = stage is stages[-1]
            if isinstance(result, Failed) and result.is_slow and isinstance(self.space, TransferSpace) and not is_last:
                slow = result
                continue  # large networks that know much already begin in a later stage
            if isinstance(result, Failed):
                self._tell_failed(trial, result)
                return
            trained = result
            spent += trained.score.seconds
            facts = facts_of(trained.score, stage.number, trained.changes, self.clock.seconds)
            facts["is_seeded"] = trained.pace is not None or trained.learnt.heads is not None
            if not self.ledger.note(trial, **{RESULT: {**facts, "spent": spent}}):
                return  # it was taken for dead, and another worker has it
            if trained.learnt.fitted.stopped_early and self.has_any and self.time_left() <= 0:
                self.ledger.note(trial, cause=f"the time was up in stage {stage.number}")
                self.ledger.tell(trial, pruned=True)
                return
            verdict = self.ledger.report(trial, trained.score.accuracy, stage.resource, judge=is_drawn and not is_last)
            if verdict != "on":
                self.ledger.tell(trial, pruned=True)
                return
        assert trained is not None
        self.ledger.tell(trial, trained.score.accuracy)
        self._note_leader(trained.score, trained.pace is not None)
        self._say(trial, trained.score)
        self._remember(trial, trained)

    def _tell_failed(self, trial: Trial, failed: Failed) -> None:
        """Write down why; what was too slow counts as a bad candidate, what could not be computed as none."""
        if failed.is_slow:
            self.ledger.note(trial, cause=failed.cause)
            self.ledger.tell(trial, pruned=True)
        else:
            self.ledger.tell(trial, cause=failed.cause)

    def _train(self, trial: Trial, settings: Mapping[str, Any], stage: Stage) -> Trained | Failed:
        changes = dict(settings)
        if "seed" in trial.user_attrs:
            changes["seed"] = trial.user_attrs["seed"]
        full = self.trainer.full_size(changes)
        if full is not None and stage.image_size(full) != full:
            changes["data.image_size"] = stage.image_size(full)
        return self.trainer.train(
            changes, stage.seconds, should_finish=lambda: self.time_left() <= 0, is_too_late=self.is_too_late
        )

    def is_too_late(self) -> bool:
        """Whether what is under way must be given up, as it did not end by itself."""
        return self.time_left() <= -LATE_SHARE * self.schedule.search_ends

    def _say(self, trial: Trial, score: Score) -> None:
        """One line for a trial that went through to the end."""
        role = trial.user_attrs.get("role", "search")
        named = f"trial {trial.number}" if role == "search" else f"trial {trial.number} ({role})"
        right = f"{score.accuracy:.2%} of {len(score.right):,} validation images"
        cost = f"{score.parameters:,} parameters, {text.duration(score.seconds)}"
        self.trainer.watch.on_message(f"{named}: {right}, {cost}")

    def _remember(self, trial: Trial, trained: Trained) -> None:
        """Keep the weights where none were better, so that there is something to hand over at any moment."""
        key = trained.score.accuracy, -trained.score.loss
        is_repeat = trial.user_attrs.get("role") == "repeat"
        if not is_repeat and (self.best is None or key > self.best):
            self.best = key
            self.folder.keep(trial.number, trained)

    def entries(self) -> list[Entry]:
        """All trials of all workers."""
        return entries_of(self.ledger.trials())

    def do_waiting(self, should_go_on: Callable[[], bool]) -> None:
        """Train what was asked for by name, until nothing of it waits or runs anywhere.

        Args:
            should_go_on: Asked before each trial.
        """
        while should_go_on():
            if self.trainer.watch.should_stop():
                raise RunInterrupted("stopped between two trials.")
            asked = self.ledger.ask(waiting_only=True)
            if asked:
                self.do(asked[0])
            elif any(item.state in ("running", "waiting") for item in self.entries()):
                time.sleep(WAIT_SECONDS)
            else:
                return


def _only(backbones: Sequence[str]) -> dict[str, str]:
    """The parameter that is settled where there is one backbone."""
    return {"model.backbone": backbones[0]} if len(backbones) == 1 else {}


def _seen_by(settings: Mapping[str, Any]) -> tuple[str, int | None]:
    """The backbone, and the side of the images: what a view costs depends on both."""
    return settings["model.backbone"], settings.get("data.image_size")
