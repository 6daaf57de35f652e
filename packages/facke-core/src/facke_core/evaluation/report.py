"""Reports of evaluations: rows, a summary with intervals, and the protocol that made them."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from facke_core.config import from_dict, read_json, write_json
from facke_core.errors import ConfigError, DataError
from facke_core.evaluation.rows import Row, rounded
from facke_core.evaluation.statistics import Estimate, estimate
from facke_core.evaluation.tones import MARGINS, NAMES, Groups, group_of, warnings_of

if TYPE_CHECKING:
    import torch

__all__ = ["EvaluationReport", "MetricInfo", "diff", "read_reports", "write_reports"]

FORMAT = 1
"""Version of the JSON document."""
TOLERANCE = 1e-6
"""Difference of two numbers, relative or absolute, up to which they agree."""
NOT_SHOWN = ("vector", "features", "frame", "key", "among")
"""Parts of a row that are of use when an evaluation is resumed."""
NOT_COMPARED = ("environment", "run")
"""Parts of a report that say where and how fast it was made, not what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInfo:
    """The unit and direction of a metric's values."""

    unit: str = ""
    higher_is_better: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """One set of weights, measured."""

    name: str
    """Name of the weights."""
    protocol: Mapping[str, Any]
    """Facts that decide the values: pairs, weights, encoders, sizes, seeds."""
    metrics: Mapping[str, MetricInfo]
    summary: Mapping[str, Estimate]
    """Metric -> its estimate over all pairs."""
    undetected: int | None
    """Number of pairs whose result shows no face; None where nobody looked."""
    skipped: Mapping[str, int]
    """Reason why pairs were not swapped -> their number."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Metric that was not measured -> the reason."""
    calibration: Mapping[str, Mapping[str, int | float | None]] = field(default_factory=dict)
    """Encoder -> its figures for real pairs (:mod:`facke_core.evaluation.calibration`)."""
    tones: Groups = field(default_factory=dict)
    """``source`` or ``target`` -> skin tone -> metric -> its estimate over the pairs of that tone
    (:mod:`facke_core.evaluation.tones`); empty where no tone is known."""
    rows: Sequence[Row] = field(repr=False, default=())
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions and device."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """Seconds per stage, workers, batch size."""

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, always in the same order."""
        rows = [{k: v for k, v in asdict(row).items() if k not in NOT_SHOWN} for row in self.rows]
        return {
            "name": self.name,
            "protocol": dict(self.protocol),
            "metrics": {name: asdict(info) for name, info in self.metrics.items()},
            "summary": _plain(self.summary),
            "undetected": self.undetected,
            "skipped": dict(self.skipped),
            "left_out": dict(self.left_out),
            "calibration": {name: dict(value) for name, value in self.calibration.items()},
            "tones": {
                side: {tone: _plain(summary) for tone, summary in groups.items()}
                for side, groups in self.tones.items()
            },
            "environment": dict(self.environment),
            "run": dict(self.run),
            "rows": rows,
        }


def summarise(
    rows: Sequence[Row], metrics: Sequence[str], *, seed: int = 0
) -> tuple[dict[str, Estimate], int | None, dict[str, int]]:
    """Summarise the rows of an evaluation.

    Args:
        rows: all rows.
        metrics: names of those metrics that have a value per pair.
        seed: seed of the bootstrap.

    Returns:
        The estimate of each metric; the number of results without a face, None where nobody
        looked; the number of skipped pairs by reason.
    """
    done = [row for row in rows if not row.skipped]
    sources, targets = ([getattr(row, f"{side}_identity") for row in done] for side in _SIDES)
    summary = {}
    for name in metrics:
        values = [row.values[name] for row in done]
        summary[name] = _rounded(estimate(values, sources, targets, seed=seed))
    looked = [row.detected for row in done if row.detected is not None]
    skipped: dict[str, int] = {}
    for row in rows:
        if row.skipped:
            skipped[row.skipped] = skipped.get(row.skipped, 0) + 1
    return summary, looked.count(False) if looked else None, dict(sorted(skipped.items()))


def by_tone(rows: Sequence[Row], metrics: Sequence[str]) -> Groups:
    """Summarise the rows by the skin tone of the source, and by that of the target."""
    groups = {}
    for side in _SIDES:
        named: dict[str, list[Row]] = {}
        for row in rows:
            if not row.skipped:
                named.setdefault(group_of(getattr(row, f"{side}_tone")), []).append(row)
        if named.keys() - {NAMES[-1]}:
            groups[side] = {
                name: summarise(named[name], metrics)[0] for name in NAMES if name in named
            }
    return groups


_SIDES = ("source", "target")


def _plain(summary: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(value) for name, value in summary.items()}


def _rounded(value: Estimate) -> Estimate:
    numbers = {name: getattr(value, name) for name in ("value", "low", "high")}
    kept = {name: None if x is None else rounded(x) for name, x in numbers.items()}
    return Estimate(**kept, n=value.n, missing=value.missing)


def environment(device: torch.device) -> dict[str, str]:
    """The versions and the device for a report, by name."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    facts = {"python": platform.python_version(), "platform": platform.machine()}
    for name in ("facke-core", "torch", "numpy", "kornia", "mediapipe"):
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue
    cuda = device.type == "cuda"
    facts["device"] = torch.cuda.get_device_name(device) if cuda else str(device)
    return facts


# -- files -----------------------------------------------------------------------------------------


def write_reports(path: Path, reports: Sequence[EvaluationReport]) -> None:
    """Write one JSON document of several reports.

    Raises:
        ConfigError: the file cannot be written.
    """
    write_json(path, document(reports))


def document(reports: Sequence[EvaluationReport]) -> dict[str, Any]:
    """The document that ``facke evaluate`` writes as JSON, as plain values."""
    return {"facke_evaluation": FORMAT, "reports": [report.to_json() for report in reports]}


def read_reports(path: Path) -> list[EvaluationReport]:
    """Read the reports that :func:`write_reports` wrote.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it holds something else.
    """
    content = read_json(path)
    if content.get("facke_evaluation") != FORMAT:
        raise DataError(
            f"{path} holds no evaluation of format {FORMAT}. Write one with "
            "write_reports, or with facke evaluate."
        )
    try:
        return list(from_dict(_Document, content, where="").reports)
    except ConfigError as error:
        raise DataError(
            f"{path} is not what facke wrote: {error} Measure again with facke evaluate."
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    facke_evaluation: int
    reports: tuple[EvaluationReport, ...]


# -- comparison ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One place where two documents of reports differ."""

    where: str
    """Path in the document, such as ``[0].summary.psnr.value``."""
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.where}: {_shown(self.a)} and {_shown(self.b)}"


def diff(
    a: Sequence[EvaluationReport], b: Sequence[EvaluationReport], tolerance: float = TOLERANCE
) -> list[Difference]:
    """Find the places where two sets of reports say different things.

    Numbers may differ by ``tolerance``, or by that share of the larger one where it is above 1.
    Versions, devices and times are not compared (:data:`NOT_COMPARED`).
    """
    return list(_differences("", _compared(a), _compared(b), tolerance))


def _compared(reports: Sequence[EvaluationReport]) -> list[dict[str, Any]]:
    documents = [report.to_json() for report in reports]
    return [{k: v for k, v in content.items() if k not in NOT_COMPARED} for content in documents]


def _differences(where: str, a: Any, b: Any, tolerance: float) -> Iterator[Difference]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(key for key in b if key not in a)]:
            place = f"{where}.{key}" if where else str(key)
            yield from _differences(place, a.get(key), b.get(key), tolerance)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            yield from _differences(f"{where}[{i}]", left, right, tolerance)
    elif _is_number(a) and _is_number(b):
        if not math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance):
            yield Difference(where=where, a=a, b=b)
    elif a != b:
        yield Difference(where=where, a=a, b=b)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


# -- tables ----------------------------------------------------------------------------------------


def shown_estimate(value: Estimate | None) -> str:
    """An estimate as text, ``0.4261 [0.41, 0.44] (2 without)``; ``-`` where there is none."""
    if value is None or value.value is None:
        return "-"
    text = f"{value.value:.4g}"
    if value.low is not None and value.high is not None:
        text += f" [{value.low:.4g}, {value.high:.4g}]"
    return f"{text} ({value.missing} without)" if value.missing else text


def table_of(reports: Sequence[EvaluationReport]) -> tuple[list[str], list[list[str]]]:
    """The head and rows of a table, with a row per metric and a column per report."""
    infos: dict[str, MetricInfo] = {}
    for report in reports:
        infos |= report.metrics
    head = ["metric", *(report.name for report in reports), "better"]
    body = []
    for name, info in infos.items():
        values = [shown_estimate(report.summary.get(name)) for report in reports]
        better = "higher" if info.higher_is_better else "lower"
        body.append([name, *values, f"{better}{f' ({info.unit})' if info.unit else ''}"])
    body.append(["pairs", *(_pairs(report) for report in reports), ""])
    if any(report.undetected is not None for report in reports):
        undetected = ["-" if r.undetected is None else str(r.undetected) for r in reports]
        body.append(["results without a face", *undetected, "lower"])
    return head, body


def _pairs(report: EvaluationReport) -> str:
    skipped = sum(report.skipped.values())
    return f"{len(report.rows)}{f', {skipped} skipped' if skipped else ''}"


def tone_tables(report: EvaluationReport) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """The title, head and rows of a table by skin tone, for sources and for targets."""
    for side, groups in report.tones.items():
        body = [
            [metric, *(shown_estimate(summary.get(metric)) for summary in groups.values())]
            for metric in report.metrics
            if any(metric in summary for summary in groups.values())
        ]
        sizes = (str(_size(summary)) for summary in groups.values())
        yield f"By the {side}'s skin", ["metric", *groups], [["pairs", *sizes], *body]


def _size(summary: Mapping[str, Estimate]) -> int:
    return max((value.n + value.missing for value in summary.values()), default=0)


def _tone_notes(report: EvaluationReport) -> list[str]:
    lines = []
    for side, groups in report.tones.items():
        shown = []
        for tone, summary in groups.items():
            told = [f"{m} {shown_estimate(summary[m])}" for m in MARGINS if m in summary]
            shown.append(f"{tone} {', '.join([f'n={_size(summary)}', *told])}")
        lines.append(f"skin of the {side}: {'; '.join(shown)}")
    better = {name: info.higher_is_better for name, info in report.metrics.items()}
    return lines + [f"warning: {line}" for line in warnings_of(report.tones, better)]


def notes_of(report: EvaluationReport) -> list[str]:
    """The facts that the table does not show: left-out metrics, skipped pairs, references,
    calibration, the runtime where it was not torch in float32, and skin tones with their
    warnings."""
    reasons: dict[str, list[str]] = {}
    for metric, reason in report.left_out.items():
        reasons.setdefault(reason, []).append(metric)
    lines = [f"{', '.join(names)} left out: {why}" for why, names in reasons.items()]
    lines += [f"{count} pairs skipped: {reason}" for reason, count in report.skipped.items()]
    usual = {"backend": "torch", "dtype": "float32"}
    backend, dtype = (report.protocol.get(key, value) for key, value in usual.items())
    if [backend, dtype] != [*usual.values()]:
        lines.append(f"generated by {backend} in {dtype}")
    about = report.protocol.get("pairs", {})
    if "judge" in report.protocol.get("encoders", {}) and (n := about.get("references")):
        others = about["n"] - n
        lines.append(
            f"the judge compares {n} results with another photograph of the source"
            f"{f', and {others} with the source itself: they name no reference' if others else ''}"
        )
    for encoder, figures in report.calibration.items():
        auc = "-" if (area := figures.get("auc")) is None else f"{area:.4f}"
        left = figures.get("undetected")
        lines.append(
            f"verification by {encoder}: AUC {auc} ({figures.get('same')} pairs of one person, "
            f"{figures.get('different')} of two"
            f"{f', {left} left out for want of a face' if left else ''})"
        )
    return lines + _tone_notes(report)
