"""The page of a map of images, from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tintype.report import material, text
from tintype.report.embedding import PAGE_NAME, page_view
from tintype.report.html import write_page
from tintype.rundir import RunDir


def write_embedding_page(folder: RunDir) -> Path:
    """Write ``embedding.html`` from ``embedding.json`` and ``thumbnails.json``, atomically; gives its path.

    Raises:
        RunError: A file is missing, damaged or from another version.
    """
    view = page_view(folder)
    environment = text.printable(folder.read_json("environment.json"))
    sections = [
        ("map", "Map", True),
        ("separability", "Separability", view.separability is not None),
        ("new", "New images", bool(view.new)),
        ("repeat", "Repeat", True),
    ]
    context: dict[str, Any] = {
        "name": view.run,
        "version": environment.get("tintype", ""),
        "view": view,
        "environment": material.environment_rows(environment),
        "command": environment.get("command", ""),
        "sections": [(anchor, words) for anchor, words, needs in sections if needs],
    }
    return write_page(folder, "embedding.html", context, PAGE_NAME)
