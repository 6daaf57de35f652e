"""The pairs of the London set: each of 60 neutral faces on every other, in one fixed order.

The set has a second photograph of each person, smiling, with which results can be compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import torch
from common import link, linked, manifest, neutral

from facke_core.data.tables import csv_text

COLUMNS = ("source", "target", "reference", "source_identity", "target_identity")
MATRIX = 6


def order(n: int, matrix: int) -> list[tuple[int, int]]:
    """All ordered pairs (source, target) of n people.

    Those of a square come first, ``matrix`` sources on as many other targets, so that a picture can
    show them; then the others, shuffled, so that the first few are a random part.
    """
    rows = range(min(matrix, n // 2))
    first = [(i, n - 1 - j) for i in rows for j in rows]
    rest = [(i, j) for i in range(n) for j in range(n) if i != j and (i, j) not in set(first)]
    shuffled = torch.randperm(len(rest), generator=torch.Generator().manual_seed(0)).tolist()
    return first + [rest[k] for k in shuffled]


def write_inputs(
    folder: Path, people: int | None = None, *, matrix: int = MATRIX, reference: bool = False
) -> tuple[Path, Path]:
    """(pairs.csv, real.csv) in a folder, of the first ``people`` or all of them.

    With ``reference``, results are to be compared with the smiling photograph of the source.
    """
    link(folder)
    rows = neutral(manifest(), people)
    pairs = []
    for pair in order(len(rows), matrix):
        source, target = (linked(rows[k]) for k in pair)
        other = source.replace("/neutral.jpg", "/smiling.jpg") if reference else ""
        pairs.append((source, target, other, *(rows[k]["identity"] for k in pair)))
    return (
        _write(folder / "pairs.csv", COLUMNS, pairs),
        _write(folder / "real.csv", ("a", "b", "same"), _real(people)),
    )


def _real(people: int | None) -> list[tuple[str, str, int]]:
    """Pairs of one and of two people, within each of two sets of photographs."""
    pairs = []
    for group in ("london", "lfw10"):
        shown: dict[str, list[str]] = defaultdict(list)
        for row in manifest(group):
            shown[row["identity"]].append(linked(row))
        chosen = [(who, path) for who in list(shown)[:people] for path in sorted(shown[who])]
        for (who, a), (whom, b) in combinations(chosen, 2):
            # strangers of the London set meet with the same expression only
            if group == "lfw10" or who == whom or Path(a).name == Path(b).name == "neutral.jpg":
                pairs.append((a, b, int(who == whom)))
    return pairs


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    path.write_text(csv_text(columns, rows), encoding="utf-8", newline="")
    return path
