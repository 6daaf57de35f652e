"""Many pictures: the pairs of a CSV, here or on many machines.

Picture *n* of the folder is what :class:`~facke_core.pipeline.SwapPipeline` makes of pair *n* with
the seed that stands beside it. Pairs are done in shards; an interrupted work loses the shard it was
at.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from facke_core._files import leftovers
from facke_core.config import read_json, write_json, write_text
from facke_core.errors import DataError, FackeError, ImageError, NoFaceError, UsageError
from facke_core.jobs.engines import Engine, here, shards
from facke_core.jobs.pairs import PairSet, Progress, SwapPair, read_pairs
from facke_core.plugins.registry import Registry, default_registry
from facke_core.weights.sources import Source, locate

__all__ = ["SwapWork", "swap_pairs"]

RUN = "run.json"
"""What the pictures of a folder belong to."""
SWAPS = "swaps.csv"
"""What was done, once everything is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """One pair."""

    pair: int
    """Its place in the CSV, from 0."""
    source: str
    target: str
    output: str = ""
    """The name of the picture; empty if there is none."""
    faces: int = 0
    """How many were swapped."""
    seed: int | None = None
    skipped: str = ""
    """Why there is no picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapWork:
    """A :class:`~facke_core.jobs.engines.Work`; whoever does it sees the paths named here."""

    weights: str | Source
    """As for :func:`facke_core.load`. Where several do the work, a :class:`Source` makes all of
    them load the same commit or the same tensors."""
    pairs: str
    """A CSV: :func:`~facke_core.jobs.pairs.read_pairs`."""
    folder: str
    face: str | int = "largest"
    """As for :meth:`SwapPipeline.__call__ <facke_core.pipeline.SwapPipeline>`."""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    """Each pair has its own, which follows from this one and the two pictures."""
    device: str = "cpu"
    registry: Callable[[], Registry] = default_registry

    def about(self, pairs: PairSet) -> dict[str, Any]:
        """What decides the pictures."""
        found = locate(self.weights, registry=self.registry())
        return {
            "pairs": {"sha256": pairs.digest, "n": len(pairs)},
            "weights": {"name": found.name, "revision": found.revision},
            "method": found.config.method,
            "face": self.face,
            "sampler": json.loads(json.dumps(dict(self.sampler), default=str)),
            "seed": self.seed,
        }

    def open(self, threads: int | None) -> Callable[[range], dict[str, Any]]:
        """See :class:`~facke_core.jobs.engines.Work`."""
        import torch

        from facke_core.jobs.pairs import noise
        from facke_core.loading import load
        from facke_core.protocols import SeededSampler

        if threads:
            torch.set_num_threads(threads)
        pipeline = load(
            self.weights, device=self.device, sampler=self.sampler, registry=self.registry()
        )
        pairs = read_pairs(Path(self.pairs)).pairs
        draws = self.seed is not None or not isinstance(pipeline.method.sampler, SeededSampler)

        def swap(index: int, pair: SwapPair) -> Swap:
            found = Swap(pair=index, source=pair.source.name, target=pair.target.name)
            seed = noise(self.seed, *pair).initial_seed() if draws else None
            files = [str(one.path) for one in pair]
            try:
                result = pipeline(*files, seed=seed, face=self.face)  # type: ignore[arg-type]
            except (ImageError, NoFaceError) as error:
                return replace(found, skipped=str(error))
            name = f"{index:06d}.png"
            result.save(str(Path(self.folder) / name), overwrite=True)
            return replace(found, output=name, faces=len(result.faces), seed=seed)

        def do(part: range) -> dict[str, Any]:
            return {"swaps": [asdict(swap(index, pairs[index])) for index in part]}

        return do


def swap_pairs(
    work: SwapWork,
    *,
    engine: Engine = here,
    resume: bool = False,
    on_progress: Progress | None = None,
) -> list[Swap]:
    """Swap all pairs of a CSV into a folder: ``000000.png`` and so on, and :data:`SWAPS`.

    Args:
        work: what is done.
        engine: who does it. Pictures are the same to the last bit where as many threads compute
            them; another number rounds sums in another way.
        resume: go on with the pictures in the folder.
        on_progress: called after each shard.

    Raises:
        UsageError: the folder holds something else, or pictures without ``resume``.
        DataError: the CSV or the folder cannot be used.
        FackeError: whatever :func:`facke_core.load` raises.
    """
    work = replace(work, weights=locate(work.weights, registry=work.registry()))
    pairs, folder = read_pairs(Path(work.pairs)), Path(work.folder)
    done = _begin(folder, work.about(pairs), resume=resume)
    parts = shards(len(pairs))
    known = {part: _read(done, part) for part in parts}
    missing = [part for part in parts if known[part] is None]
    for part, found in engine(work, missing):
        known[part] = [Swap(**one) for one in found["swaps"]]
        write_json(_file(done, part), found)
        if on_progress:
            total = sum(len(one) for one, swaps in known.items() if swaps is not None)
            on_progress("pairs", total, len(pairs))
    swaps = [one for part in parts for one in known[part] or ()]
    _write_csv(folder / SWAPS, swaps)
    return swaps


def _begin(folder: Path, run: Mapping[str, Any], *, resume: bool) -> Path:
    """The folder of what is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        leftovers(folder, remove=True)
        there = [file.name for file in folder.iterdir()]
    except OSError as error:
        raise DataError(f"{folder} cannot be used ({error}). Choose another folder.") from error
    if RUN not in there:
        if there:
            raise UsageError(f"{folder} holds other files ({there[0]}). Choose an empty folder.")
        write_json(folder / RUN, run)
    elif other := sorted(key for key in run if read_json(folder / RUN).get(key) != run[key]):
        raise UsageError(
            f"{folder} holds pictures of other settings: {', '.join(other)} "
            f"{'is' if len(other) == 1 else 'are'} different. Choose another folder."
        )
    elif not resume:
        raise UsageError(
            f"{folder} holds pictures of these pairs already. Go on with `resume=True`, or "
            "choose another folder."
        )
    done = folder / "done"
    try:
        done.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"{done} cannot be made ({error}). Make room and resume.") from error
    return done


def _file(done: Path, part: range) -> Path:
    return done / f"{part.start:06d}.json"


def _read(done: Path, part: range) -> list[Swap] | None:
    file = _file(done, part)
    if not file.is_file():
        return None
    try:
        swaps = [Swap(**one) for one in read_json(file)["swaps"]]
        if [one.pair for one in swaps] != list(part):
            raise ValueError("it holds other pairs")
    except (FackeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} is damaged ({error}). Delete it and resume.") from error
    return swaps


def _write_csv(file: Path, swaps: list[Swap]) -> None:
    text = io.StringIO(newline="")
    rows = csv.DictWriter(text, Swap.__dataclass_fields__)
    rows.writeheader()
    rows.writerows(asdict(one) for one in swaps)
    write_text(file, text.getvalue())
