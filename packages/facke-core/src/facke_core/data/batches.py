"""Batches of swaps from a crop set.

Batch k is a function of ``(seed, k)`` alone, so a training that is resumed at step k sees exactly
the batches it would have seen (docs/adr/0002).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from facke_core.data.composite import composite, oval
from facke_core.data.crops import CropSet
from facke_core.data.mesh import MIRROR, POINTS
from facke_core.data.pairs import PairConfig, PairSampler, People
from facke_core.data.sending import received, shared_memory, to_send
from facke_core.environment import short_temporary_folder
from facke_core.errors import DataError, check_ranges, first_line
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

    def __post_init__(self) -> None:
        PairConfig.__post_init__(self)  # slots: no super()
        check_ranges(
            self,
            "data",
            composite=(0, 1),
            donors=(1, 65_536),
            max_geometry=(0, 1),
            colour_jitter=(0, 1),
        )


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
        if self._composites and crops.points is None:
            raise DataError(
                f"data.composite is {config.composite}, and this crop set has no mesh points to "
                "make composites with. Make it from photographs, not from aligned crops, or train "
                "with `overrides=['data.composite=0']`."
            )
        self.pairs = PairSampler(
            People(crops.people.tolist(), crops.weights.tolist()),
            config=config,
            batch_size=batch_size,
            composites=self._composites,
            seed=seed,
        )
        self._mirror = torch.tensor(MIRROR)
        self._features = None if crops.points is None else _pose(crops.points)

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
        source_index = torch.tensor([pairs[i].source for i in chosen.tolist()])
        target_index = torch.tensor([pairs[i].target for i in chosen.tolist()])
        same = torch.tensor([pairs[i].same_identity for i in chosen.tolist()])
        mirrored = mirrored[chosen]
        reference = self._images(target_index, mirrored)
        source = self._images(source_index, mirrored)
        identity = self.crops.embeddings[source_index, mirrored.long()]
        target, made = reference, chosen < composites
        if made.any():
            target = target.clone()
            index = chosen[made]
            target[made] = self._composite(
                reference[made],
                target_index[made],
                mirrored[made],
                donor[index],
                geometry[index],
                softness,
            )
        if self.config.colour_jitter:
            draws = self.config.colour_jitter * (2 * colours[chosen] - 1)
            target, reference = _jitter(target, draws), _jitter(reference, draws)
        return FaceBatch(source, target, identity, same, reference)

    def _images(self, index: Tensor, mirrored: Tensor) -> Tensor:
        image = self.crops.images[index].float() / 255
        return torch.where(mirrored[:, None, None, None], image.flip(-1), image)

    def _points(self, index: Tensor, mirrored: Tensor, size: int) -> Tensor:
        assert self.crops.points is not None
        points = self.crops.points[index]
        flipped = points[:, self._mirror].clone()
        flipped[..., 0] = size - 1 - flipped[..., 0]
        return torch.where(mirrored[:, None, None], flipped, points)

    def _composite(
        self,
        photo: Tensor,
        index: Tensor,
        mirrored: Tensor,
        donor: Tensor,
        geometry: Tensor,
        softness: int,
    ) -> Tensor:
        assert self.crops.ring is not None
        size = photo.shape[-1]
        donor_index = self._similar(index, donor)
        mask = torch.stack([oval(ring, size) for ring in self.crops.ring[index]]).float() / 255
        return composite(
            photo,
            self._points(index, mirrored, size),
            torch.where(mirrored[:, None, None, None], mask.flip(-1), mask),
            self._images(donor_index, mirrored),
            self._points(donor_index, mirrored, size),
            geometry=geometry,
            softness=softness,
        )

    def _similar(self, index: Tensor, rank: Tensor) -> Tensor:
        """The crop that is the ``rank``-th closest in pose and mouth shape to each of ``index``."""
        assert self._features is not None
        distance = torch.cdist(self._features[index], self._features)
        distance[torch.arange(len(index)), index] = float("inf")
        k = min(self.config.donors, len(self._features) - 1)
        nearest = distance.topk(k, dim=1, largest=False).indices
        return nearest[torch.arange(len(index)), rank % k]


def _pose(points: Tensor) -> Tensor:
    """Numbers (N, 5) that tell pose and mouth shape, in pixels."""
    at = {index: points[:, POINTS.index(index)] for index in (1, 13, 14, 61, 291, 468, 473)}
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
