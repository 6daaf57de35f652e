"""The work of swapping many pictures: the pairs of a CSV, here or on many machines.

Picture *n* of the folder is what :class:`~facke_core.pipeline.SwapPipeline` makes of pair *n* with
the seed that stands beside it. Pairs are done in shards; an interrupted work loses the shard it was
at.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from facke_core._files import leftovers
from facke_core.config import from_dict, read_json, write_json, write_text
from facke_core.errors import (
    ConfigError,
    DataError,
    FackeWarning,
    ImageError,
    NoFaceError,
    UsageError,
)
from facke_core.jobs.engines import Engine, here, shards
from facke_core.jobs.pairs import PairSet, SwapPair, read_pairs
from facke_core.plugins.registry import Registry, default_registry
from facke_core.types import Progress
from facke_core.weights.sources import Source, locate

__all__ = ["SwapWork", "swap_pairs"]

RUN = "run.json"
"""What the pictures of a folder belong to."""
SWAPS = "swaps.csv"
"""What was done, once everything is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """What became of one pair: a row of :data:`SWAPS`."""

    pair: int
    """Its place in the CSV, from 0."""
    source: str
    """The path in the CSV."""
    target: str
    """The path in the CSV."""
    output: str = ""
    """The name of the picture; empty if there is none."""
    faces: int = 0
    """The number of faces that were swapped."""
    faces_seen: int = 0
    """The number of faces that were seen in the target."""
    doubts: str = ""
    """The doubts about these faces, and about the source's; empty if there are none."""
    seed: int | None = None
    """Seed with which this picture can be made alone; None where it was made without one."""
    skipped: str = ""
    """Why there is no picture; empty if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapWork:
    """A :class:`~facke_core.jobs.engines.Work`; whoever does it sees the paths named here."""

    weights: str | Source
    """The weights, as :func:`facke_core.load` takes them. Where several do the work, a
    :class:`Source` makes all of them load the same commit or the same tensors."""
    pairs: str
    """A CSV for :func:`~facke_core.jobs.pairs.read_pairs`."""
    folder: str
    """The folder that the pictures go to."""
    face: str | int | Sequence[int] = "largest"
    """The faces of each target to swap, as :class:`~facke_core.pipeline.SwapPipeline` takes them.
    """
    source_face: int | None = None
    """The face of each source that gives the identity; None: the largest."""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    """Settings that override the sampler's."""
    seed: int | None = None
    """The seed from which, and from the two pictures, the seed of each pair follows. None counts as
    0, but samplers that draw only for somebody who asks for a seed do not draw."""
    device: str = "cpu"
    """The device, as for :func:`facke_core.load`."""
    registry: Callable[[], Registry] = default_registry
    """A function that returns where names are looked up; it is called in each process."""

    def about(self, pairs: PairSet) -> dict[str, Any]:
        """Say what decides the pictures, as plain values."""
        source = locate(self.weights, registry=self.registry())
        return {
            "pairs": {"sha256": pairs.digest, "n": len(pairs)},
            "weights": {"name": source.name, "revision": source.revision},
            "method": source.config.method,
            "face": self.face if isinstance(self.face, str | int) else list(self.face),
            "source_face": self.source_face,
            "sampler": json.loads(json.dumps(dict(self.sampler), default=str)),
            "seed": self.seed,
        }

    def open(self, threads: int | None) -> Callable[[range], dict[str, Any]]:
        """Load the weights; return what swaps pairs, as :class:`~facke_core.jobs.engines.Work`."""
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
            row = Swap(pair=index, source=pair.source.name, target=pair.target.name)
            seed = noise(self.seed, *pair).initial_seed() if draws else None
            files = [str(picture.path) for picture in pair]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FackeWarning)  # the row says what is doubtful
                    result = pipeline(
                        *files,
                        seed=seed,
                        face=self.face,  # type: ignore[arg-type]
                        source_face=self.source_face,
                    )
            except (ImageError, NoFaceError) as error:
                return replace(row, skipped=str(error))
            name = f"{index:06d}.png"
            result.save(str(Path(self.folder) / name), overwrite=True)
            shown = [*result.faces, *([result.source] if result.source else [])]
            return replace(
                row,
                output=name,
                faces=len(result.faces),
                faces_seen=result.faces_seen,
                doubts="; ".join(dict.fromkeys(doubt for face in shown for doubt in face.doubts)),
                seed=seed,
            )

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

    Returns:
        What became of each pair, in the order of the CSV. One whose pictures cannot be read or show
        no face is skipped.

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
    for part, result in engine(work, missing):
        known[part] = [Swap(**row) for row in result["swaps"]]
        write_json(_file(done, part), result)
        if on_progress:
            total = sum(len(numbers) for numbers, swaps in known.items() if swaps is not None)
            on_progress("pairs", total, len(pairs))
    swaps = [swap for part in parts for swap in known[part] or ()]
    _write_csv(folder / SWAPS, swaps)
    return swaps


def _begin(folder: Path, run: Mapping[str, Any], *, resume: bool) -> Path:
    """Make the folder of what is done, and refuse one that belongs to something else."""
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
        swaps = from_dict(_Shard, read_json(file), where="").swaps
        if [swap.pair for swap in swaps] != list(part):
            raise ConfigError("it holds other pairs")
    except ConfigError as error:
        raise DataError(f"{file} is damaged ({error}). Delete it and resume.") from error
    return swaps


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    """What a file of finished pairs holds."""

    swaps: list[Swap]


def _write_csv(file: Path, swaps: list[Swap]) -> None:
    text = io.StringIO(newline="")
    rows = csv.DictWriter(text, Swap.__dataclass_fields__)
    rows.writeheader()
    rows.writerows(asdict(swap) for swap in swaps)
    write_text(file, text.getvalue())
