"""Batches of swaps from a crop set.

Batch k is a function of ``(seed, k)`` alone, so a training that is resumed at step k sees exactly
the batches it would have seen (docs/adr/0002).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from facke_core.data.composite import composite
from facke_core.data.crops import CropSet
from facke_core.data.occluders import draw
from facke_core.data.pairs import CropPair, PairConfig, PairSampler, People
from facke_core.data.sending import received, shared_memory, to_send
from facke_core.data.views import in_other_light, turned
from facke_core.environment import short_temporary_folder
from facke_core.errors import DataError, check_ranges, first_line
from facke_core.faces.areas import openings, polygon
from facke_core.faces.mesh import OVAL_RING, POINTS, face_mesh
from facke_core.images.io import to_pil
from facke_core.types import FaceBatch

__all__ = ["BatchConfig", "Batches", "SwapBatches", "stream"]

ALL = slice(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig(PairConfig):
    """The mixture of a batch: composites, then pairs.

    Raises:
        ConfigError: a number out of its range.
    """

    composite: float = 0.0
    """Share of composites (:mod:`facke_core.data.composite`)."""
    donors: int = 64
    """Number of crops, the closest in pose and mouth shape, of which one is a composite's donor."""
    max_geometry: float = 0.8
    """Largest share of the donor's geometry in a composite, 0 to 1."""
    colour_jitter: float = 0.15
    """Largest relative change of gain, gamma and saturation of a pair."""
    mirror: bool = True
    """Mirror half of the pairs."""
    occluders: float = 0.0
    """Share of targets before whose face something is drawn (:mod:`facke_core.data.occluders`)."""
    source_occluders: float = 0.0
    """The same of sources."""
    natural: bool = False
    """Give composites the light of the photograph and its eyes and mouth, so that they tell a
    method that keeps these the truth."""
    views: float = 0.0
    """Share of the pairs of one person whose source is another view: another picture of the person
    or, where there is none, and for half of the others, the same with the head turned
    (:mod:`facke_core.data.views`); always in another light."""

    def __post_init__(self) -> None:
        PairConfig.__post_init__(self)  # slots: no super()
        check_ranges(
            self,
            "data",
            composite=(0, 1),
            donors=(1, 65_536),
            max_geometry=(0, 1),
            colour_jitter=(0, 1),
            occluders=(0, 1),
            source_occluders=(0, 1),
            views=(0, 1),
        )


class _View(NamedTuple):
    """What the source of a pair shows: a picture, and how it is changed."""

    picture: int
    rng: random.Random | None = None
    """Draws turn and light; None: the picture as it is."""
    turn: bool = False


class Batches(Protocol):
    """A source of batches, which are a pure function of the step."""

    def read(self, step: int, rows: slice = ALL) -> FaceBatch:
        """The samples ``rows`` of the batch of ``step``."""
        ...


class SwapBatches:
    """Batches of composites and pairs from a crop set.

    Args:
        crops: the crop set.
        batch_size: B, samples per step over all processes.
        config: the mixture.
        seed: seed of everything random: pairs, mirroring, composites, colours.

    Raises:
        DataError: the set cannot give what the configuration asks for.
    """

    def __init__(self, crops: CropSet, *, batch_size: int, config: BatchConfig, seed: int) -> None:
        self.crops, self.config, self.seed = crops, config, seed
        self._composites = min(round(config.composite * batch_size), batch_size)
        for key in ("composite", "occluders", "source_occluders", "views"):
            if getattr(config, key) and crops.mesh is None:
                raise DataError(
                    f"data.{key} is {getattr(config, key)}, and this crop set has no face meshes "
                    "to draw by. Make it from photographs, not from aligned crops, or train with "
                    f"`overrides=['data.{key}=0']`."
                )
        self._people = People(crops.people.tolist(), crops.weights.tolist())
        self.pairs = PairSampler(
            self._people,
            config=config,
            batch_size=batch_size,
            composites=self._composites,
            seed=seed,
        )
        self._features = None if crops.mesh is None else _pose(crops.mesh)

    def read(self, step: int, rows: slice = ALL) -> FaceBatch:
        """The samples ``rows`` of batch ``step``, with crops (b, 3, S, S) in [0, 1].

        A sample does not depend on which rows are read with it.
        """
        pairs = self.pairs[step]
        b, composites = len(pairs), self._composites
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        # drawn for the whole batch, so that a sample does not depend on who reads it
        mirrored = (torch.rand(b, generator=rng) < 0.5) & self.config.mirror
        donor = torch.randint(self.config.donors, (composites,), generator=rng)
        geometry = torch.rand(composites, generator=rng) * self.config.max_geometry
        softness = int(torch.randint(2, 6, (1,), generator=rng)) * 2 + 1
        colours = torch.rand(b, 6, generator=rng)

        chosen = torch.arange(b)[rows]
        target_index = torch.tensor([pairs[i].target for i in chosen.tolist()])
        same = torch.tensor([pairs[i].same_identity for i in chosen.tolist()])
        mirrored = mirrored[chosen]
        seeds = [f"{self.seed}/{step}/{row}" for row in chosen.tolist()]
        drawn = zip(chosen.tolist(), seeds, strict=True)
        views = [self._view(pairs[row], seed) for row, seed in drawn]
        source_index = torch.tensor([view.picture for view in views])
        reference = self._images(target_index, mirrored)
        source = self._images(source_index, mirrored)
        identity = self.crops.embeddings[source_index, mirrored.long()]
        source_mesh, mesh = self._mesh(source_index, mirrored), self._mesh(target_index, mirrored)
        source, source_mesh = self._seen_otherwise(source, source_mesh, views)
        target, made = reference, chosen < composites
        if made.any():
            assert mesh is not None
            target = target.clone()
            index = chosen[made]
            target[made] = self._composite(
                reference[made],
                mesh[made],
                target_index[made],
                mirrored[made],
                donor[index],
                geometry[index],
                softness,
            )
        if self.config.colour_jitter:
            draws = self.config.colour_jitter * (2 * colours[chosen] - 1)
            target, reference = _jitter(target, draws), _jitter(reference, draws)
        occlusion = hidden = None
        if self.config.occluders:
            assert mesh is not None
            share = self.config.occluders
            (target, reference), occlusion = self._occluded([target, reference], mesh, seeds, share)
        if self.config.source_occluders:
            assert source_mesh is not None
            share, seeds = self.config.source_occluders, [f"{seed}/source" for seed in seeds]
            (source,), hidden = self._occluded([source], source_mesh, seeds, share)
        return FaceBatch(
            source, target, identity, same, reference, source_mesh, mesh, occlusion, hidden
        )

    def _view(self, pair: CropPair, seed: str) -> _View:
        """What the source of a pair shows."""
        rng = random.Random(f"{seed}/view")
        if not pair.same_identity or rng.random() >= self.config.views:
            return _View(pair.source)
        several = len(self._people.pictures[self._people.person[pair.target]]) > 1
        picture = self._people.another_of(pair.target, rng) if several else pair.target
        return _View(picture, rng, turn=not several or rng.random() < 0.5)

    def _seen_otherwise(
        self, source: Tensor, mesh: Tensor | None, views: Sequence[_View]
    ) -> tuple[Tensor, Tensor | None]:
        """Sources and their meshes with the heads turned, and the light changed, where asked."""
        if mesh is None or not any(view.rng for view in views):
            return source, mesh
        source, mesh = source.clone(), mesh.clone()
        for row, view in enumerate(views):
            if view.rng is None:
                continue
            if view.turn:
                image, points = turned(source[row, None], mesh[row, None], view.rng)
                source[row], mesh[row] = image[0], points[0]
            source[row] = in_other_light(source[row, None], view.rng)[0]
        return source, mesh

    def _images(self, index: Tensor, mirrored: Tensor) -> Tensor:
        image = self.crops.images[index].float() / 255
        return torch.where(mirrored[:, None, None, None], image.flip(-1), image)

    def _mesh(self, index: Tensor, mirrored: Tensor) -> Tensor | None:
        if self.crops.mesh is None:
            return None
        mesh = self.crops.mesh[index]
        flipped = mesh[:, face_mesh().mirror].clone()
        flipped[..., 0] = self.crops.images[:1].shape[-1] - 1 - flipped[..., 0]
        return torch.where(mirrored[:, None, None], flipped, mesh)

    def _composite(
        self,
        photo: Tensor,
        mesh: Tensor,
        index: Tensor,
        mirrored: Tensor,
        donor: Tensor,
        geometry: Tensor,
        softness: int,
    ) -> Tensor:
        donor_index = self._similar(index, donor)
        donor_mesh = self._mesh(donor_index, mirrored)
        assert donor_mesh is not None
        size, ring = photo.shape[-1], list(OVAL_RING)
        return composite(
            photo,
            mesh[:, list(POINTS)],
            torch.stack([polygon(outline, size) for outline in mesh[:, ring]]).float() / 255,
            self._images(donor_index, mirrored),
            donor_mesh[:, list(POINTS)],
            geometry=geometry,
            softness=softness,
            light=self.config.natural,
            keep=torch.stack([openings(face, size, eyes=True) for face in mesh])
            if self.config.natural
            else None,
        )

    def _occluded(
        self, pictures: list[Tensor], mesh: Tensor, seeds: list[str], share: float
    ) -> tuple[list[Tensor], Tensor]:
        """Pictures of the same faces with the same things before a share of them, and what these
        cover."""
        pictures = [picture.clone() for picture in pictures]
        size = pictures[0].shape[-1]
        occlusion = pictures[0].new_zeros(len(mesh), 1, size, size)
        for row, seed in enumerate(seeds):
            rng = random.Random(seed)
            if rng.random() >= share:
                continue
            hair = partial(self._hair, pictures[0][row], mesh[row])
            thing = draw(mesh[row], size, rng, self._texture, hair)
            for picture in pictures:
                picture[row] = thing.over(picture[row])
            occlusion[row] = thing.extent
        return pictures, occlusion

    def _hair(self, own: Tensor, mesh: Tensor, rng: random.Random) -> Image.Image:
        """What is above the forehead of this crop (3, S, S), or of some other one."""
        size = own.shape[-1]
        if rng.random() < 0.5:
            assert self.crops.mesh is not None
            other = torch.tensor([rng.randrange(len(self.crops))])
            own, mesh = self.crops.images[other][0].float() / 255, self.crops.mesh[other][0]
        x, top = mesh[10].round().int().tolist()
        side = max(size // 8, 4)
        low, left = max(min(top - 2, size), side), max(min(x - rng.randrange(2 * side), size), 0)
        left = min(left, size - side)
        return to_pil(own[:, max(low - 2 * side, 0) : low, left : left + 2 * side])

    def _texture(self, rng: random.Random) -> Image.Image:
        """A piece of some crop: mostly cheek, brow or background, in another light."""
        crop = self.crops.images[torch.tensor([rng.randrange(len(self.crops))])][0]
        size = crop.shape[-1]
        side = rng.randrange(max(size // 8, 1), max(size // 3, 2))
        y, x = (rng.randrange(size - side + 1) for _ in range(2))
        piece = crop[:, y : y + side, x : x + side].float() * rng.uniform(0.5, 1.3)
        return to_pil(piece.clamp(0, 255) / 255)

    def _similar(self, index: Tensor, rank: Tensor) -> Tensor:
        """The crop that is the ``rank``-th closest in pose and mouth shape to each of ``index``."""
        assert self._features is not None
        distance = torch.cdist(self._features[index], self._features)
        distance[torch.arange(len(index)), index] = float("inf")
        k = min(self.config.donors, len(self._features) - 1)
        nearest = distance.topk(k, dim=1, largest=False).indices
        return nearest[torch.arange(len(index)), rank % k]


def _pose(mesh: Tensor) -> Tensor:
    """Numbers (N, 5) that tell pose and mouth shape, in pixels."""
    at = {index: mesh[:, index] for index in (1, 13, 14, 61, 291, 468, 473)}
    nose = at[1] - (at[468] + at[473]) / 2
    return torch.stack(
        [
            nose[:, 0],
            nose[:, 1],
            2 * (at[14] - at[13])[:, 1],
            (at[291] - at[61])[:, 0],
            (at[473] - at[468])[:, 1],
        ],
        dim=1,
    )


def _jitter(image: Tensor, draws: Tensor) -> Tensor:
    """Apply relative changes (B, 6) of gain, gamma, saturation and the gain of each channel."""
    gain, gamma, saturation, *channel = (1 + draws)[:, :, None, None, None].unbind(1)
    grey = image.mean(dim=1, keepdim=True)
    vivid = torch.lerp(grey.expand_as(image), image, saturation).clamp(0, 1)
    return (gain * torch.cat(channel, dim=1).sqrt() * vivid.pow(gamma)).clamp(0, 1)


def stream(
    batches: Batches,
    steps: range,
    *,
    process: int = 0,
    processes: int = 1,
    parts: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[list[FaceBatch]]:
    """Read the share that this process has of each step's batch, in ``parts`` parts.

    Every process takes each ``processes``-th row, so all see the same mixture. ``workers``
    processes read ahead; neither number changes the data.

    Args:
        batches: what is read.
        steps: the steps, in order.
        process: number of this process, from 0.
        processes: how many take part.
        parts: parts of the share, for accumulated gradients.
        workers: processes that read ahead; 0: none.
        pin_memory: put the tensors where a GPU gets them faster.

    Yields:
        The parts of a step.

    Raises:
        DataError: a process that reads ahead has died.
    """
    if workers:
        short_temporary_folder()
    shares = [slice(process + part * processes, None, processes * parts) for part in range(parts)]
    loader = DataLoader(
        _Steps(batches, shares, workers),
        sampler=steps,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=_as_it_is,
    )
    try:
        for sent in loader:
            yield [received(part) for part in sent]
    except RuntimeError as error:
        if not _DEAD.match(str(error)):
            raise
        raise DataError(
            f"A process that reads batches ahead has died ({first_line(error)}). Mostly the memory "
            f"was not enough, or what processes share of it: {shared_memory()}. Give it more (a "
            "container has 64 MB unless its shm-size says 2g), take a smaller batch_size, or read "
            "in this process: `workers=0`."
        ) from error


class _Steps(Dataset[list[FaceBatch]]):
    def __init__(self, batches: Batches, shares: list[slice], workers: int) -> None:
        self.batches, self.shares, self.workers = batches, shares, workers

    def __getitem__(self, step: int) -> list[Any]:
        parts = [self.batches.read(step, rows) for rows in self.shares]
        return to_send(parts, self.workers) if self.workers else parts


_DEAD = re.compile(r"DataLoader worker \(pid")


def _as_it_is(batch: list[Any]) -> list[Any]:
    return batch
