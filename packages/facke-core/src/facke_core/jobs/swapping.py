"""The work of swapping many pictures: the pairs of a CSV, or one source and all pictures of a
folder, here or on many machines.

Picture *n* of a CSV, or that of the same name, is what
:class:`~facke_core.pipeline.SwapPipeline` makes of pair *n* with the seed that stands beside it.
Pairs are done in shards; an interrupted work loses the shard it was at.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from facke_core._files import leftovers, one_job, sha256_of
from facke_core.config import from_dict, read_json, write_json, write_text
from facke_core.data.tables import csv_text
from facke_core.errors import (
    ConfigError,
    DataError,
    FackeWarning,
    ImageError,
    NoFaceError,
    UsageError,
)
from facke_core.images.files import WRITABLE, is_hidden
from facke_core.jobs.engines import Engine, here, parts_without, shards
from facke_core.jobs.pairs import PairSet, SwapPair, key_of, pairs_of_folder, read_pairs
from facke_core.plugins.registry import Registry, default_registry
from facke_core.types import Progress
from facke_core.weights.sources import Source, locate

__all__ = ["SwapWork", "swap_pairs"]

PAIRS = "pairs"
"""What may differ when a work is resumed: a picture is known by its own pair."""
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
    key: str = ""
    """SHA-256 of the contents of source and target together."""
    sha256: str = ""
    """SHA-256 of the picture; empty if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapWork:
    """A :class:`~facke_core.jobs.engines.Work`; whoever does it sees the paths named here."""

    weights: str | Source
    """The weights, as :func:`facke_core.load` takes them. Where several do the work, a
    :class:`Source` makes all of them load the same commit or the same tensors."""
    pairs: str
    """A CSV for :func:`~facke_core.jobs.pairs.read_pairs`, or with :attr:`source` a folder of
    pictures, whose results have the same names in the same folders."""
    folder: str
    """The folder that the pictures go to."""
    source: str = ""
    """A picture that is put on all of a folder; empty where a CSV names the sources."""
    face: str | int | Sequence[int] = "largest"
    """The faces of each target to swap, as :class:`~facke_core.pipeline.SwapPipeline` takes them.
    """
    source_face: int | None = None
    """The face of each source that gives the identity; None: the largest."""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    """Settings that override the sampler's."""
    blend: Mapping[str, Any] = field(default_factory=dict)
    """Settings of how faces are put into photos (:class:`~facke_core.types.Blend`)."""
    seed: int | None = None
    """The seed from which, and from the two pictures, the seed of each pair follows. None counts as
    0, but samplers that draw only for somebody who asks for a seed do not draw."""
    device: str = "cpu"
    """The device, as for :func:`facke_core.load`."""
    registry: Callable[[], Registry] = default_registry
    """A function that returns where names are looked up; it is called in each process."""

    def read(self) -> PairSet:
        """Read the pairs."""
        if self.source:
            return pairs_of_folder(Path(self.source), Path(self.pairs))
        return read_pairs(Path(self.pairs))

    def name_of(self, index: int, pair: SwapPair) -> str:
        """The name of the result of a pair in :attr:`folder`."""
        if not self.source:
            return f"{index:06d}.png"
        name = pair.target.name  # formats that are only read become PNG
        return name if Path(name).suffix.lower() in WRITABLE else f"{name}.png"

    def about(self, pairs: PairSet) -> dict[str, Any]:
        """Say what decides the pictures, as plain values."""
        source = locate(self.weights, registry=self.registry())
        return {
            PAIRS: {"sha256": pairs.digest, "n": len(pairs)},
            "weights": {"name": source.name, "revision": source.revision},
            "method": source.config.method,
            "face": self.face if isinstance(self.face, str | int) else list(self.face),
            "source_face": self.source_face,
            "sampler": json.loads(json.dumps(dict(self.sampler), default=str)),
            "blend": dict(self.blend),
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
            self.weights,
            device=self.device,
            sampler=self.sampler,
            blend=self.blend,
            registry=self.registry(),
        )
        pairs = self.read().pairs
        draws = self.seed is not None or not isinstance(pipeline.method.sampler, SeededSampler)

        def swap(index: int, pair: SwapPair) -> Swap:
            pictures = pair[:2]  # a reference decides nothing here
            source, target = (picture.name for picture in pictures)
            row = Swap(pair=index, source=source, target=target, key=key_of(pictures))
            for picture in pictures:
                if picture.fault:
                    return replace(row, skipped=f"{picture.name} cannot be read: {picture.fault}")
            seed = noise(self.seed, *pictures).initial_seed() if draws else None
            files = [str(picture.path) for picture in pictures]
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
            name = self.name_of(index, pair)
            file = Path(self.folder) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            result.save(str(file), overwrite=True)
            shown = [*result.faces, *([result.source] if result.source else [])]
            return replace(
                row,
                output=name,
                faces=len(result.faces),
                faces_seen=result.faces_seen,
                doubts="; ".join(dict.fromkeys(doubt for face in shown for doubt in face.doubts)),
                seed=seed,
                sha256=sha256_of(file),
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
    """Swap all pairs into a folder: ``000000.png`` and so on, or the names of the targets, and
    :data:`SWAPS`.

    Args:
        work: what is done.
        engine: who does it. Pictures are the same to the last bit where as many threads compute
            them; another number rounds sums in another way.
        resume: go on with the pictures in the folder. Those that are missing or damaged, and those
            of pairs that the CSV did not have, are made.
        on_progress: called after each shard.

    Returns:
        What became of each pair, in the order of the CSV. One whose pictures cannot be read or show
        no face is skipped.

    Raises:
        UsageError: the folder holds something else, or pictures without ``resume``.
        DataError: the CSV or the folder cannot be used, or another job is at work on it.
        FackeError: whatever :func:`facke_core.load` raises.
    """
    work = replace(work, weights=locate(work.weights, registry=work.registry()))
    pairs, folder = work.read(), Path(work.folder)
    with one_job(folder):
        run = work.about(pairs)
        done = _begin(folder, run, resume=resume)
        whole = shards(len(pairs))
        known = {swap.pair: swap for part in whole for swap in _kept(done, part, pairs, work)}
        if not known and any(done.iterdir()) and read_json(folder / RUN).get(PAIRS) != run[PAIRS]:
            raise UsageError(
                f"{folder} holds pictures of other pairs, none of which is in {work.pairs}. Choose "
                "another folder."
            )
        write_json(folder / RUN, run)
        for part, result in engine(work, parts_without(known, len(pairs))):
            known |= {swap.pair: swap for swap in (Swap(**row) for row in result["swaps"])}
            (shard,) = (shard for shard in whole if part.start in shard)
            rows = [asdict(known[index]) for index in shard if index in known]
            write_json(_file(done, shard), {"swaps": rows})
            if on_progress:
                on_progress("pairs", len(known), len(pairs))
        swaps = [known[index] for index in range(len(pairs))]
        _write_csv(folder / SWAPS, swaps)
        return swaps


def _begin(folder: Path, run: Mapping[str, Any], *, resume: bool) -> Path:
    """Make the folder of what is done, and refuse one that belongs to something else."""
    try:
        leftovers(folder, remove=True)
        there = [file.name for file in folder.iterdir() if not is_hidden(file.name)]
    except OSError as error:
        raise DataError(f"{folder} cannot be used ({error}). Choose another folder.") from error
    if RUN not in there:
        if there:
            raise UsageError(f"{folder} holds other files ({there[0]}). Choose an empty folder.")
        write_json(folder / RUN, run)
    elif other := sorted(
        key for key in run if key != PAIRS and read_json(folder / RUN).get(key) != run[key]
    ):
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
        leftovers(done, remove=True)
    except OSError as error:
        raise DataError(f"{done} cannot be made ({error}). Make room and resume.") from error
    return done


def _file(done: Path, part: range) -> Path:
    return done / f"{part.start:06d}.json"


def _kept(done: Path, part: range, pairs: PairSet, work: SwapWork) -> list[Swap]:
    """What was done of a shard and is still there."""
    file = _file(done, part)
    if not file.is_file():
        return []
    return [swap for swap in _read(file) if swap.pair in part and _holds(swap, pairs, work)]


def _read(file: Path) -> list[Swap]:
    try:
        return from_dict(_Shard, read_json(file), where="").swaps
    except ConfigError as error:
        raise DataError(f"{file} is damaged ({error}). Delete it and resume.") from error


def _holds(swap: Swap, pairs: PairSet, work: SwapWork) -> bool:
    """Tell whether a row is of its pair, and its picture as it was written."""
    pair = pairs.pairs[swap.pair]
    source, target = pictures = pair[:2]
    if (swap.key, swap.source, swap.target) != (key_of(pictures), source.name, target.name):
        return False
    picture = Path(work.folder) / work.name_of(swap.pair, pair)
    return bool(swap.skipped) or (picture.is_file() and sha256_of(picture) == swap.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    """What a file of finished pairs holds."""

    swaps: list[Swap]


def _write_csv(file: Path, swaps: list[Swap]) -> None:
    rows = (list(asdict(swap).values()) for swap in swaps)
    write_text(file, csv_text(list(Swap.__dataclass_fields__), rows))
