"""What an evaluation found for each pair, in memory and on disk.

Rows are written in shards of :data:`~facke_core.jobs.engines.SHARD` pairs, each a file that appears
when it is complete. An evaluation that was killed loses the shard it was at, and goes on there.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from facke_core import _json
from facke_core._files import leftovers
from facke_core.config import from_dict, read_json, write_json, write_text
from facke_core.errors import ConfigError, DataError, UsageError
from facke_core.evaluation.tones import Tone
from facke_core.jobs import engines
from facke_core.jobs.pairs import PairSet, key_of

__all__: list[str] = []

RUN = "run.json"
"""What the rows of a folder belong to."""
PAIRS = "pairs"
"""What may differ when an evaluation is resumed: a row is known by its own pair."""
DIGITS = 9
"""Significant digits of a value."""
MAX_BATCH = 65_536
"""Most pairs in work at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One pair."""

    pair: int
    """Its place in the pairs."""
    source: str
    target: str
    source_identity: str
    target_identity: str
    values: Mapping[str, float | None]
    """Metric -> value; None where there is none."""
    detected: bool | None = None
    """Whether a face was found in the result; None where nobody looked."""
    skipped: str = ""
    """Why nothing was swapped."""
    vector: str = ""
    """The judge's vector of the result as base64 of float32, where the judge looked."""
    features: str = ""
    """The features of the result in the same way, where a metric compares sets of them."""
    frame: str = ""
    """What moves in target and result in the same way, where a metric is of clips."""
    key: str = ""
    """SHA-256 of the contents of source, target and reference together."""
    among: str = ""
    """Digest of the pictures among which the source's person was looked for, and of who is on
    them."""
    reference: str = ""
    """Other photograph of the source's person, with which the judge compared the result; empty: it
    compared with the source."""
    source_tone: Tone = None
    """Skin tone of the source's picture, in degrees (:mod:`facke_core.evaluation.tones`)."""
    target_tone: Tone = None
    """That of the target's."""


def check_batch(size: int) -> None:
    """Raise UsageError unless so many pairs can be in work at a time."""
    if not 1 <= size <= MAX_BATCH:
        raise UsageError(
            f"{size} pairs cannot be in work at a time. Give `batch_size` as a number from 1 to "
            f"{MAX_BATCH}."
        )


def rounded(value: float) -> float | None:
    """The value that a report holds; None for what is not a number."""
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


def pack(vector: np.ndarray[Any, Any]) -> str:
    """A vector as text."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def unpack(text: str) -> np.ndarray[Any, Any]:
    """The float32 vector of :func:`pack`."""
    return np.frombuffer(base64.b64decode(text), "<f4")


class RowFiles:
    """The rows of one evaluation in a folder.

    Args:
        folder: made if it is missing.
        run: what decides the rows; rows of another run are refused.
        resume: whether rows of the same run may be there.

    Raises:
        UsageError: there are rows, of another run or without ``resume``.
        DataError: the folder cannot be written.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], *, resume: bool) -> None:
        self.folder = folder
        run = json.loads(json.dumps(run))  # tuples become lists
        try:
            folder.mkdir(parents=True, exist_ok=True)
            leftovers(folder, remove=True)
        except OSError as error:
            raise DataError(f"{folder} cannot be made ({error}). Choose another.") from error
        self._run, self._old = run, run
        if (folder / RUN).exists():
            self._old = read_json(folder / RUN)
            self._compare(self._old, run, resume)
        else:
            write_json(folder / RUN, run)

    def _compare(self, old: Mapping[str, Any], run: Mapping[str, Any], resume: bool) -> None:
        keys = {*old, *run} - {PAIRS}
        other = sorted(key for key in keys if old.get(key) != run.get(key))
        if other:
            raise UsageError(
                f"{self.folder} holds the rows of another evaluation: "
                f"{', '.join(other)} {'is' if len(other) == 1 else 'are'} different. Choose "
                "another folder for `out=...`."
            )
        if not resume:
            raise UsageError(
                f"{self.folder} holds rows of this evaluation already. Go on with `resume=True`, "
                "or choose another folder for `out=...`."
            )

    def known(self, pairs: PairSet) -> dict[int, Row]:
        """Find rows of these pairs by their contents; number of the pair -> row.

        Raises:
            DataError: a file of rows is damaged.
            UsageError: there are rows, and none of them is of these pairs.
        """
        there = {row.key: row for path in self._files() for row in _rows(path)}
        known = {
            index: replace(
                there[key_of(pair)],
                pair=index,
                source=pair.source.name,
                target=pair.target.name,
                source_identity=pair.source.identity,
                target_identity=pair.target.identity,
                reference=pair.reference.name if pair.reference else "",
            )
            for index, pair in enumerate(pairs.pairs)
            if key_of(pair) in there and not any(p and p.fault for p in pair)
        }
        if there and not known and self._old.get(PAIRS) != self._run[PAIRS]:
            raise UsageError(
                f"{self.folder} holds the rows of other pairs, none of which is among these. "
                "Choose another folder for `out=...`."
            )
        write_json(self.folder / RUN, self._run)
        return known

    def write(self, pairs: range, rows: Sequence[Row]) -> None:
        """Write rows of a shard; its file appears whole. Rows of other pairs in it stay.

        Raises:
            ConfigError: it cannot be written.
        """
        path, keys = self._path(pairs), {row.key for row in rows}
        others = [row for row in _rows(path) if row.key not in keys] if path.is_file() else []
        lines = (json.dumps(asdict(row), allow_nan=False) for row in [*rows, *others])
        write_text(path, "".join(f"{line}\n" for line in lines))

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("rows-*.jsonl"))

    def _path(self, pairs: range) -> Path:
        return self.folder / f"rows-{pairs.start // engines.SHARD:05d}.jsonl"


def _rows(path: Path) -> list[Row]:
    try:
        rows = [
            from_dict(Row, _json.parse(line), where=f"line {number}")
            for number, line in enumerate(path.read_bytes().splitlines(), 1)
        ]
        kept = [text for row in rows for text in (row.vector, row.features, row.frame)]
        if not all(np.isfinite(unpack(text)).all() for text in kept):
            raise ValueError("a vector in it is not finite")
        return rows
    except (OSError, ValueError, ConfigError) as error:
        raise DataError(f"{path} is damaged ({error}). Delete it and resume.") from error
