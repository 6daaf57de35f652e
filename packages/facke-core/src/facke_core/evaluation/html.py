"""One page to look at: the table, the spread of the values, and the worst and best pairs.

It needs no script, no other file and nothing from the network.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from facke_core.config import write_text
from facke_core.evaluation.identities import BY_VECTORS
from facke_core.evaluation.metrics import SwappedPairs
from facke_core.evaluation.report import EvaluationReport, notes_of, table_of, tone_tables
from facke_core.evaluation.rows import Row
from facke_core.evaluation.runner import Evaluator
from facke_core.images.io import resize, to_pil
from facke_core.jobs.pairs import PairSet

__all__ = ["write_html"]

SHOWN = 4
"""Number of pairs that are shown at each end."""
SIDE = 128
"""Side of a picture in pixels."""
BINS = 30
"""Number of bars of a histogram."""

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: #1d1d1f; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left;
  vertical-align: top }
td { font-variant-numeric: tabular-nums }
figure { display: inline-block; margin: 0 1.2rem 1rem 0 }
figcaption { font-size: .8rem; color: #555; max-width: 25rem; overflow-wrap: anywhere }
img { width: 8rem; height: 8rem; margin-right: 2px }
svg { display: block } .bar { fill: #4878a8 } .axis { font-size: 11px; fill: #555 }
.notes { color: #555 } dt { font-weight: 600 } pre { white-space: pre-wrap; font-size: .8rem }
"""


class Case(NamedTuple):
    """One pair, to look at."""

    row: Row
    pictures: tuple[str, ...]
    """Data URIs of source, target and result; for a metric of swap(x, x), of x and swap(x, x)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """The pairs at both ends of a metric."""

    worst: Sequence[Case]
    best: Sequence[Case]


def cases_of(evaluator: Evaluator, pairs: PairSet, report: EvaluationReport) -> dict[str, Cases]:
    """Swap the pairs at the ends of each metric once more, for their pictures.

    Metrics with one value for all pairs, and those that give every pair the same, have none.
    """
    per_self = {m.name for m in evaluator.metrics if m.needs == {"self"}}
    ends = {}
    for name, info in report.metrics.items():
        rows = _ordered(report.rows, name, once_per_source=name in per_self)
        if len(rows) > 1 and rows[0].values[name] != rows[-1].values[name]:
            worst, best = rows[:SHOWN], rows[::-1][:SHOWN]
            ends[name] = (worst, best) if info.higher_is_better else (best, worst)
    wanted = sorted({row.pair for pair in ends.values() for rows in pair for row in rows})
    swapped = dict(zip(wanted, evaluator.swapped(pairs, wanted), strict=True))

    def case(row: Row, name: str) -> Case:
        pair_swapped = swapped[row.pair]
        assert pair_swapped is not None, "skipped pairs have no values"
        return Case(row, tuple(_uri(x) for x in _pictures(pair_swapped, name in per_self)))

    return {
        name: Cases(worst=[case(r, name) for r in worst], best=[case(r, name) for r in best])
        for name, (worst, best) in ends.items()
    }


def _ordered(rows: Sequence[Row], metric: str, *, once_per_source: bool) -> list[Row]:
    """The rows that have a value, from the lowest value; one per source where that decides it."""
    valued = [row for row in rows if row.values.get(metric) is not None]
    if once_per_source:
        valued = list({row.source: row for row in reversed(valued)}.values())
    return sorted(valued, key=lambda row: (row.values[metric], row.pair))


def _pictures(swapped: SwappedPairs, rebuilt: bool) -> list[Tensor]:
    if rebuilt:
        shown = [swapped.source, swapped.reconstruction]
    else:
        result = swapped.result if swapped.pasted is None else swapped.pasted
        shown = [swapped.source, swapped.target, result]
    return [x[0] for x in shown if x is not None]


def _uri(image: Tensor) -> str:
    small = resize(image[None], (SIDE, SIDE))[0].clamp(0, 1)
    stream = io.BytesIO()
    to_pil(small).save(stream, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


# -- the page --------------------------------------------------------------------------------------


def write_html(
    path: Path,
    reports: Sequence[EvaluationReport],
    cases: Sequence[Mapping[str, Cases]] = (),
) -> None:
    """Write the page.

    Args:
        path: the file, which is replaced.
        reports: what was measured.
        cases: the pictures that :func:`cases_of` made, one mapping per report; none: no pictures.

    Raises:
        ConfigError: it cannot be written.
    """
    write_text(path, page(reports, cases))


def page(reports: Sequence[EvaluationReport], cases: Sequence[Mapping[str, Cases]] = ()) -> str:
    """The HTML text of the page; the arguments are those of :func:`write_html`."""
    title = "Evaluation of " + ", ".join(report.name for report in reports)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        "<p>Mean over the pairs, and the 95 % interval of a bootstrap over people. The results "
        "shown are synthetic.</p>",
        _table(*table_of(reports)),
    ]
    for i, report in enumerate(reports):
        parts.append(f"<h2>{escape(report.name)}</h2>")
        if notes := notes_of(report):
            parts.append("<ul class=notes>")
            parts += [f"<li>{escape(note)}</li>" for note in notes]
            parts.append("</ul>")
        for title, head, body in tone_tables(report):
            parts += [f"<h3>{escape(title)}</h3>", _table(head, body)]
        own_cases = cases[i] if i < len(cases) else {}
        parts += [_section(report, name, own_cases.get(name)) for name in report.metrics]
        parts.append(_protocol(report))
    return "\n".join([*parts, "</body></html>\n"])


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"


def _section(report: EvaluationReport, name: str, cases: Cases | None) -> str:
    values = [v for row in report.rows if (v := row.values.get(name)) is not None]
    if not values:
        return ""
    parts = [f"<h3>{escape(name)}</h3>", _histogram(values)]
    for title, shown in (("Worst", cases.worst), ("Best", cases.best)) if cases else ():
        parts.append(f"<h4>{title}</h4><div>{''.join(_figure(case, name) for case in shown)}</div>")
    return "".join(parts)


def _figure(case: Case, metric: str) -> str:
    images = "".join(f'<img src="{uri}" alt="">' for uri in case.pictures)
    row = case.row
    names = row.source if len(case.pictures) == 2 else f"{row.source} on {row.target}"
    names += f", compared with {row.reference}" if row.reference and metric in BY_VECTORS else ""
    text = f"{row.values[metric]:.4g}: {names}"
    return f"<figure>{images}<figcaption>{escape(text)}</figcaption></figure>"


def _histogram(values: Sequence[float], width: int = 460, height: int = 90) -> str:
    """A histogram of the values of the pairs, as SVG."""
    numbers = np.asarray(values, np.float64).clip(-1e150, 1e150)
    room = max(1e-9 * np.abs(numbers).max(), 1e-9)  # else bars can be narrower than numbers are
    ends = (numbers.min() - room, numbers.max() + room) if np.ptp(numbers) < BINS * room else None
    counts, edges = np.histogram(numbers, bins=BINS, range=ends)
    bar = width / BINS
    bars = "".join(
        f'<rect class="bar" x="{i * bar:.1f}" y="{height - height * count / counts.max():.1f}" '
        f'width="{bar - 1:.1f}" height="{height * count / counts.max():.1f}"/>'
        for i, count in enumerate(counts.tolist())
    )
    low, high = (f"{edge:.3g}" for edge in (edges[0], edges[-1]))
    return (
        f'<svg width="{width}" height="{height + 18}" role="img" '
        f'aria-label="{len(values)} values from {low} to {high}">{bars}'
        f'<text class="axis" x="0" y="{height + 14}">{low}</text>'
        f'<text class="axis" x="{width}" y="{height + 14}" text-anchor="end">{high}</text></svg>'
    )


def _protocol(report: EvaluationReport) -> str:
    import json

    about = {"protocol": report.protocol, "environment": report.environment, "run": report.run}
    text = json.dumps(about, indent=2, ensure_ascii=False)
    return f"<details><summary>Protocol</summary><pre>{escape(text)}</pre></details>"
