"""The log of a training for those who read its model card: a plot and a short table.

A log has a line per logged step, and grows with the training. A card shows at most
:data:`QUANTITIES` of its quantities, as curves of at most :data:`POINTS` points in ``log.svg`` and
as means over at most :data:`SPANS` spans of steps in a table of at most 15 lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TypeGuard, TypeVar
from xml.sax.saxutils import escape

from facke_core import _json
from facke_core._files import write_bytes
from facke_core.errors import WeightsError
from facke_core.weights.layout import LOG, PLOT, WeightsConfig, logs_of

__all__ = ["Curves", "curves_beside", "parts", "plot", "read_curves", "table_rows", "write_logs"]

T = TypeVar("T")
Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Quantity -> (step, value), in the order of the log."""

QUANTITIES = 13
"""Quantities that a card shows at most."""
POINTS = 48
"""Points of a curve at most."""
SPANS = 5
"""Columns of the table at most."""
LARGEST = 1e300
"""A bound for the numbers of a curve, which neither infinity nor nan is below."""
NOT_SHOWN = {"step", "images", "images_per_s"}
"""Quantities that are counters, or tell of the machine."""

_COLUMNS, _WIDTH, _HEIGHT, _GAP = 3, 214, 92, 12
_AXIS = 44
"""Room for the numbers at the right of a curve."""
_GREY = "#7a7f87"
_COLOURS = ("#3b82f6", "#d97706", "#16a34a", "#a855f7")
"""Colours of a middle brightness, for white and for black pages."""


def write_logs(folder: Path, logs: Mapping[str, bytes]) -> dict[str, str]:
    """Put logs into a folder of weights, and the plot of ``log.jsonl`` beside them.

    Args:
        folder: made if it is missing.
        logs: name -> content; ``log.jsonl``, and ``log-1.jsonl`` and so on of earlier runs.

    Returns:
        Name -> SHA-256 of all that was written: what belongs under ``training.logs`` in
        ``config.json``.

    Raises:
        WeightsError: the folder cannot be written.
    """
    contents = dict(logs)
    if picture := plot(read_curves(logs.get(LOG, b""))):
        contents[PLOT] = picture.encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_bytes(folder / name, content)
    except OSError as error:
        raise WeightsError(
            f"The logs cannot be written to {folder}: {error}. Choose another folder."
        ) from error
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def curves_beside(folder: Path, config: WeightsConfig) -> Curves:
    """Read the curves of the log that ``config.json`` names; none where there is no such log."""
    path = folder / LOG
    if LOG not in logs_of(config) or not path.is_file():
        return {}
    return read_curves(path.read_bytes())


def read_curves(log: bytes) -> dict[str, list[tuple[int, float]]]:
    """Return the numbers of a log by quantity. What is no line of a log, and no finite number, is
    left out. Quantities of one module stand together."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for text in log.splitlines():
        try:
            line = _json.parse(text)
        except ValueError:  # a line that was cut off
            continue
        step = line.get("step") if isinstance(line, dict) else None
        if not _is_number(step):
            continue
        for name, value in line.items():
            if name not in NOT_SHOWN and _is_number(value):
                curves.setdefault(name, []).append((int(step), float(value)))
    groups = list(dict.fromkeys(map(_group, curves)))
    return dict(sorted(curves.items(), key=lambda item: groups.index(_group(item[0]))))


def _group(name: str) -> str:
    """Return the module of a quantity: ``generator`` of ``generator.identity``."""
    return name.partition(".")[0]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def parts(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """Cut ``items`` into at most ``most`` parts, in order: none empty, the longest at most one
    longer than the shortest."""
    n = min(len(items), most)
    return [items[len(items) * i // n : len(items) * (i + 1) // n] for i in range(n)]


# -- table -----------------------------------------------------------------------------------------


def table_rows(curves: Curves) -> list[list[str]]:
    """Return the head and a row per quantity: its mean over each span of steps, "" where it was not
    logged. The last row counts the quantities that find no place."""
    steps = sorted({step for curve in curves.values() for step, _ in curve})
    spans = parts(steps, SPANS)
    if not spans:
        return []
    rows = [["mean over the steps", *map(_span, spans)]]
    fits = len(curves) <= QUANTITIES
    for name, curve in islice(curves.items(), QUANTITIES if fits else QUANTITIES - 1):
        by_span = [[y for x, y in curve if span[0] <= x <= span[-1]] for span in spans]
        rows.append([name, *(f"{fmean(values):.4g}" if values else "" for values in by_span)])
    if not fits:
        rows.append([f"and {len(curves) - QUANTITIES + 1} more", *[""] * len(spans)])
    return rows


def _span(steps: Sequence[int]) -> str:
    return f"{steps[0]} to {steps[-1]}" if steps[0] < steps[-1] else f"{steps[0]}"


# -- plot ------------------------------------------------------------------------------------------


def plot(curves: Curves) -> str:
    """Draw an SVG with a panel per quantity, each on a scale of its own; "" without curves.

    The same curves always give the same text.
    """
    shown = list(islice(curves.items(), QUANTITIES))
    if not shown:
        return ""
    first = min(curve[0][0] for _, curve in shown)
    last = max(curve[-1][0] for _, curve in shown)
    groups = list(dict.fromkeys(_group(name) for name, _ in shown))
    columns = min(_COLUMNS, len(shown))
    width = columns * (_WIDTH + _GAP) + _GAP
    height = -(-len(shown) // columns) * (_HEIGHT + _GAP) + _GAP + 16
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="system-ui,sans-serif" font-size="11" '
        f'fill="{_GREY}" role="img">',
        f"<title>The training by step, {first} to {last}</title>",
    ]
    for k, (name, curve) in enumerate(shown):
        x, y = (
            _GAP + n * (size + _GAP) for n, size in ((k % columns, _WIDTH), (k // columns, _HEIGHT))
        )
        colour = _COLOURS[groups.index(_group(name)) % len(_COLOURS)]
        lines += [
            f'<g transform="translate({x} {y})">',
            *_panel(name, curve, colour, first, last),
            "</g>",
        ]
    lines += [f'<text x="{_GAP}" y="{height - 8}">steps {first} to {last}</text>', "</svg>"]
    return "\n".join(lines) + "\n"


def _panel(
    name: str, curve: Sequence[tuple[int, float]], colour: str, first: int, last: int
) -> list[str]:
    points = [
        (fmean(x for x, _ in some), fmean(y for _, y in some)) for some in parts(curve, POINTS)
    ]
    low, high = min(y for _, y in points), max(y for _, y in points)
    width, top, height = _WIDTH - _AXIS, 20, _HEIGHT - 24
    drawn = [
        (
            width * (x - first) / (last - first or 1),
            top + height * ((high - y) / (high - low) if high > low else 0.5),
        )
        for x, y in points
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
    title = name if len(name) <= 34 else f"{name[:33]}…"
    end = f'cx="{drawn[-1][0]:.1f}" cy="{drawn[-1][1]:.1f}"'
    scale = (
        [(high, top + 4), (low, top + height + 4)]
        if high > low
        else [(high, top + height // 2 + 4)]
    )
    return [
        f'<text y="10">{escape(title)}</text>',
        f'<path d="M0 {_HEIGHT}h{width}" stroke="{_GREY}" stroke-opacity=".5"/>',
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" '
        'stroke-linejoin="round"/>',
        f'<circle {end} r="2" fill="{colour}"/>',
        *(f'<text x="{width + 6}" y="{y}">{value:.3g}</text>' for value, y in scale),
    ]
