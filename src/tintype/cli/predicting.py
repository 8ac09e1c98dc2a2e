"""How `tintype predict` finds its images, and where their labels go."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from tintype.cli.ranks import watching
from tintype.cli.telling import fail, print_json
from tintype.data.decode import LARGEST_FILE
from tintype.data.nameset import name_hash
from tintype.data.paths import each_once, find_images, read_list
from tintype.errors import RunInterrupted
from tintype.output import Style, Tally, write_labels
from tintype.ranks.torchrun import rank_of_process
from tintype.serving.labelfile import LabelFile
from tintype.serving.labels import Label
from tintype.serving.predictor import Predictor, require_model
from tintype.serving.watching import FolderWatch, watch_folder
from tintype.watch import Watch

STDIN = "-"
WATCHED_OUTPUT = Path("labels.csv")
"""Where the labels of ``--watch`` go unless ``--output`` says something else."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for.

    Attributes:
        run: The run or the export.
        paths: Files, folders and globs, or ``-`` alone.
        files_from: A file of names; ``-`` is standard input.
        watched: The folder of ``--watch``.
        output: The CSV that rows are added to.
        explain_to: The folder for pictures of where the model looked.
        answer_all: Call every answer sure.
        top: How many classes the table and the JSON name.
        style: What is written on stdout.
        device: As for :class:`tintype.serving.predictor.Predictor`.
    """

    run: Path
    paths: tuple[str, ...]
    files_from: str | None
    watched: Path | None
    output: Path | None
    explain_to: Path | None
    answer_all: bool
    top: int
    style: Style
    device: str

    @property
    def pictures(self) -> Path | None:
        """The folder for pictures; one inside it for each process where there are several."""
        rank = rank_of_process()
        return self.explain_to if self.explain_to is None or rank is None else self.explain_to / f"rank{rank}"


def label_images(wanted: Wanted) -> None:
    """Label what was asked for and say how it went.

    Raises:
        TintypeError: With one line that says what is wrong; also where an image could not be read.
    """
    _check(wanted)
    require_model(wanted.run)
    if wanted.paths not in ((), (STDIN,)):
        find_images(wanted.paths)  # says what is missing before torch has been imported
    with watching(wanted.style == "json") as watch:
        predictor = Predictor(wanted.run, wanted.device, needs_maps=wanted.explain_to is not None)
        if predictor.source != wanted.run:
            watch.on_message(f"using {predictor.source}: the same model, without torch")
        if wanted.watched is not None:
            tally = _label_folder(wanted, wanted.watched, predictor, watch)
        elif wanted.output is not None:
            tally = _label_into(wanted, wanted.output, predictor, watch)
        else:
            labels = _labels(wanted, predictor, watch)
            tally = write_labels(labels, predictor.classes, wanted.style, sys.stdout, top=wanted.top)
        _tell(wanted, predictor.threshold, tally, watch)


def _labels(wanted: Wanted, predictor: Predictor, watch: Watch, file: LabelFile | None = None) -> Iterator[Label]:
    """Labels of what was asked for and is neither in the file yet nor another process' share."""
    if wanted.paths == (STDIN,):
        return predictor.label([(STDIN, _standard_input())], explain=wanted.pictures, answer_all=wanted.answer_all)

    def names() -> Iterator[str]:
        known = () if file is None else file.known
        return (name for name in _names(wanted) if name not in known and _is_mine(name))

    # A list that is no file, such as a pipe, can be read only once.
    again = names if wanted.files_from is None or Path(wanted.files_from).is_file() else tuple
    return predictor.label_files(
        names(), watch.on_progress, again=again, explain=wanted.pictures, answer_all=wanted.answer_all
    )


def _label_into(wanted: Wanted, output: Path, predictor: Predictor, watch: Watch) -> Tally:
    """Add rows to a CSV, and nothing to stdout."""
    with LabelFile(output, predictor.classes, predictor.model_hash(), rank_of_process()) as file:
        if file.taken:
            watch.on_message(f"{output}: {file.taken:,} rows taken over from the files of several processes")
        tally = Tally(_recorded(_labels(wanted, predictor, watch, file), file))
        try:
            for _ in tally:
                pass
        except KeyboardInterrupt:
            raise RunInterrupted(
                f"tintype: stopped; {file.path} has {tally.images:,} more rows. The same command goes on."
            ) from None
    there = f", {len(file.known):,} were there already" if rank_of_process() is None else ""
    watch.on_message(f"{file.path}: {_images(tally.images)} labelled{there}")
    if wanted.style == "json":
        print_json(
            {
                "output": str(file.path), "images": tally.images, "there_before": len(file.known),
                "unsure": tally.unsure, "unreadable": tally.failed,
            }
        )  # fmt: skip
    return tally


def _label_folder(wanted: Wanted, folder: Path, predictor: Predictor, watch: Watch) -> Tally:
    """Label what appears in a folder until somebody stops it, which is how it ends well."""
    if not folder.is_dir():
        fail(f"there is no folder {folder} to watch. Make it first.")
    with LabelFile(wanted.output or WATCHED_OUTPUT, predictor.classes, predictor.model_hash()) as file:
        watch.on_message(f"watching {folder}; labels go to {file.path}, which has {len(file.known):,}; Ctrl-C ends it")
        label = partial(predictor.label, explain=wanted.pictures, answer_all=wanted.answer_all)
        labels = watch_folder(FolderWatch(folder, file.known), label, watch.on_message, _pause)
        tally = Tally(_recorded(labels, file))
        try:
            write_labels(tally, predictor.classes, "table", sys.stdout, top=wanted.top)
        except KeyboardInterrupt:
            watch.on_message(f"{file.path}: {_images(tally.images)} labelled; the same command goes on")
    return tally


def _recorded(labels: Iterable[Label], file: LabelFile) -> Iterator[Label]:
    for label in labels:
        file.append(label)
        yield label


def _pause(seconds: float) -> None:
    sys.stdout.flush()  # whoever reads the table through a pipe shall see it as it grows
    time.sleep(seconds)


def _names(wanted: Wanted) -> Iterator[str]:
    """Names of all images that were asked for, each once."""
    found = find_images(wanted.paths) if wanted.paths or wanted.files_from is None else iter(())
    return found if wanted.files_from is None else each_once(chain(found, _listed(wanted.files_from)))


def _listed(name: str) -> Iterator[str]:
    is_stdin = name == STDIN
    # Standard input without a buffer, which would wait for 64 KiB of names before it gave the first.
    with open(sys.stdin.fileno() if is_stdin else name, "rb", buffering=0, closefd=not is_stdin) as file:
        yield from read_list(file, "standard input" if is_stdin else name)


def _standard_input() -> bytes:
    content = sys.stdin.buffer.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        fail("standard input has more than 1 GiB, which is no image to label.")
    return content


def _is_mine(name: str) -> bool:
    """Whether this process labels an image: each of torchrun's takes those whose names' hashes fall to it."""
    rank = rank_of_process()
    return rank is None or name_hash(name) % int(os.environ.get("WORLD_SIZE", "1")) == rank


def _check(wanted: Wanted) -> None:
    """Refuse what does not go together."""
    reads_stdin = STDIN in (*wanted.paths, wanted.files_from)
    if wanted.watched is not None and (wanted.paths or wanted.files_from):
        fail("--watch labels what is in its folder; name no other images.")
    if not wanted.paths and wanted.files_from is None and wanted.watched is None:
        fail(
            "name images: files, folders, patterns such as 'photos/*.jpg', - for one on standard input, or --watch DIR."
        )
    if STDIN in wanted.paths and (len(wanted.paths) > 1 or wanted.files_from or wanted.output):
        fail("- reads one image from standard input: name no others, and no --output, which goes by names.")
    if reads_stdin and (sys.stdin is None or sys.stdin.isatty()):
        fail("- reads standard input, and nothing is sent there: tintype predict RUN - < cat.jpg")
    if wanted.output is not None and wanted.output.suffix != ".csv":
        fail(f"--output writes CSV; give it a name that ends in .csv. Got {wanted.output}.")
    if wanted.style == "csv" and (wanted.output or wanted.watched):
        fail("--csv writes to standard output, --output and --watch to a CSV file; leave --csv out.")
    if wanted.style == "json" and wanted.watched:
        fail("--json writes one object at the end, and --watch has none; read the CSV that it adds to.")
    if rank_of_process() is not None and (wanted.output is None or wanted.watched or reads_stdin):
        fail("several processes label files into a CSV each: give --output labels.csv, and neither - nor --watch.")


def _tell(wanted: Wanted, threshold: float, tally: Tally, watch: Watch) -> None:
    if tally.unsure:
        watch.on_message(
            f"not sure of {tally.unsure:,} of {_images(tally.images)}: less probable than {threshold:.1%}, the "
            "threshold of this model; --answer-all turns it off"
        )
    if wanted.pictures is not None and tally.images > tally.failed:
        watch.on_message(f"{wanted.pictures}: where the model looked, {_images(tally.images - tally.failed)}")
    if tally.failed:
        line = f"{_images(tally.failed)} could not be read; see the output for the reasons."
        if rank_of_process() is None and wanted.watched is None:
            fail(line)
        watch.on_message(line)  # torchrun would stop the other processes


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number:,} images"
