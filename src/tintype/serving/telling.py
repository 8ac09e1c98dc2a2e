"""What an export came to, in a few lines."""

from __future__ import annotations

from tintype.serving.export import SCRIPT, ExportReport, Quantization
from tintype.serving.parity import Agreement


def summary_lines(made: ExportReport) -> list[str]:
    """How it was verified, what it costs, and how it is used."""
    lines = [f"verified on {made.images}: {_agreement(made.same_image)}, {_ties(made.same_image)}"]
    if made.own_resize is not None:
        lines.append(
            f"resized by the model itself, {made.own_resize.images:,} images: {_agreement(made.own_resize)}, "
            f"median {made.own_resize.median:.1g}"
        )
    if made.int8 is not None:
        lines.append(_cost(made.int8))
    if made.maps:
        lines.append(f"no maps of where it looks: {made.maps}")
    sizes = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in made.files.items() if name != SCRIPT)
    return [*lines, f"written: {made.path} ({sizes})", f"try: python {made.path / SCRIPT} IMAGE"]


def _agreement(found: Agreement) -> str:
    return f"no probability more than {found.largest:.1g} from the run's"


def _ties(found: Agreement) -> str:
    return f"the same class for all but {found.near_ties:,} near ties" if found.near_ties else "the same class for all"


def _cost(found: Quantization) -> str:
    if found.accuracy is None or found.difference is None:
        return f"int8: the same class for {found.same_class:.2%}; no image has a label, so what it costs is not known"
    span = f"95 % interval {100 * found.difference.low:+.2f} to {100 * found.difference.high:+.2f}"
    return f"int8: accuracy {found.accuracy.value:.2%}, {100 * found.difference.value:+.2f} points ({span})"
