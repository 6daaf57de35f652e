"""Aligned crops of many people in one memory-mapped file, and the batches a swap model learns from.

A crop set is a folder with ``crops.safetensors`` (tensors below) and ``dataset.json`` (alignment,
encoder, sources and their licences). Everything random in a batch follows from ``(seed, step)``
alone, so a training that is resumed at step k sees exactly the batches it would have seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from facke_core.data.composite import composite
from facke_core.data.mesh import MIRROR, POINTS
from facke_core.errors import DataError
from facke_core.types import FaceBatch

TENSORS = "crops.safetensors"
INFO = "dataset.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CropSet:
    """N aligned crops of S x S pixels."""

    images: Tensor
    """(N, 3, S, S) uint8 RGB."""
    masks: Tensor
    """(N, 1, S, S) uint8, 255 inside the face oval."""
    points: Tensor
    """(N, P, 2) float32 pixels, in the order of :data:`facke_core.data.mesh.POINTS`."""
    embeddings: Tensor
    """(N, 2, D) float32, unit norm: of the crop and of its mirror image."""
    people: Tensor
    """(N,) int64: which crops show the same person."""
    weights: Tensor
    """(N,) float32: how often a crop is drawn, relative to the others."""
    info: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def load(cls, folder: Path) -> CropSet:
        """Read a crop set.

        Raises:
            DataError: the folder holds none, or a damaged one.
        """
        if not (folder / TENSORS).is_file() or not (folder / INFO).is_file():
            raise DataError(
                f"{folder} is not a crop set: it needs {TENSORS} and {INFO}. "
                "Make one with tools/pack_crops.py."
            )
        try:
            tensors = load_file(folder / TENSORS)
            info = json.loads((folder / INFO).read_text(encoding="utf-8"))
            crops = cls(info=info, **tensors)
        except (SafetensorError, TypeError, ValueError) as error:
            raise DataError(
                f"{folder / TENSORS} cannot be read ({error}). Make the crop set again."
            ) from error
        if crops.points.shape[1] != len(POINTS):
            raise DataError(
                f"{folder} has {crops.points.shape[1]} mesh points per crop, this version of "
                f"facke uses {len(POINTS)}. Make the crop set again."
            )
        return crops

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: getattr(self, name).contiguous()
            for name in ("images", "masks", "points", "embeddings", "people", "weights")
        }
        save_file(tensors, folder / TENSORS)
        (folder / INFO).write_text(json.dumps(self.info, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """What a batch is made of. The rest of it, after ``composite`` and ``intra``, are inter-ID
    pairs: two people, no known result."""

    composite: float = 0.0
    """Share of composites (:mod:`facke_core.data.composite`)."""
    intra: float = 0.5
    """Share of pairs in which source and target are the same picture, as in SimSwap."""
    donors: int = 64
    """A composite's donor is one of this many crops that are closest in pose and mouth shape."""
    max_geometry: float = 0.8
    """Largest share of the donor's geometry in a composite."""
    colour_jitter: float = 0.15
    """Largest relative change of gain, gamma and saturation of a pair."""


class SwapBatches:
    """Batches of :class:`~facke_core.types.FaceBatch` from a crop set; ``batches[k]`` is the k-th.

    Args:
        crops: the crop set, in memory.
        batch_size: B.
        config: the mixture.
        seed: of everything random.
    """

    def __init__(self, crops: CropSet, *, batch_size: int, config: BatchConfig, seed: int) -> None:
        self.crops, self.config, self.seed, self.batch_size = crops, config, seed, batch_size
        self._num_composite = round(config.composite * batch_size)
        self._num_intra = min(round(config.intra * batch_size), batch_size - self._num_composite)
        self._mirror = torch.tensor(MIRROR)
        self._neighbours = _neighbours(crops.points, config.donors)

    def __getitem__(self, step: int) -> FaceBatch:
        crops, b, n = self.crops, self.batch_size, self._num_composite
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        target_index = torch.multinomial(crops.weights, b, replacement=True, generator=rng)
        source_index = torch.multinomial(crops.weights, b, replacement=True, generator=rng)
        source_index[: n + self._num_intra] = target_index[: n + self._num_intra]
        mirrored = torch.rand(b, generator=rng) < 0.5
        target, points = self._read(target_index, mirrored)
        source, _ = self._read(source_index, mirrored)
        identity = crops.embeddings[source_index, mirrored.long()]

        reference = target
        if n:
            near = self._neighbours[target_index[:n]]
            pick = torch.randint(near.shape[1], (n, 1), generator=rng)
            # the neighbours of a mirrored crop are mirrored neighbours
            donor, donor_points = self._read(near.gather(1, pick)[:, 0], mirrored[:n])
            mask = crops.masks[target_index[:n]].float() / 255
            mask = torch.where(mirrored[:n, None, None, None], mask.flip(-1), mask)
            made = composite(
                target[:n],
                points[:n],
                mask,
                donor,
                donor_points,
                geometry=torch.rand(n, generator=rng) * self.config.max_geometry,
                softness=int(torch.randint(2, 6, (1,), generator=rng)) * 2 + 1,
            )
            target = torch.cat([made, target[n:]])
        if self.config.colour_jitter:
            target, reference = _jitter([target, reference], self.config.colour_jitter, rng)
        # two pictures of one person have no known result; a picture and itself do
        same = source_index == target_index
        return FaceBatch(source, target, identity, same, reference)

    def _read(self, index: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        image, points = self.crops.images[index].float() / 255, self.crops.points[index]
        flipped = points[:, self._mirror].clone()
        flipped[..., 0] = image.shape[-1] - 1 - flipped[..., 0]
        return (
            torch.where(mirrored[:, None, None, None], image.flip(-1), image),
            torch.where(mirrored[:, None, None], flipped, points),
        )


def _neighbours(points: Tensor, k: int) -> Tensor:
    """(N, k) indices of the crops closest in pose and mouth shape, themselves left out."""
    at = {index: points[:, POINTS.index(index)] for index in (1, 13, 14, 61, 291, 468, 473)}
    eyes = (at[468] + at[473]) / 2
    nose = at[1] - eyes
    features = torch.stack(
        [
            nose[:, 0],
            nose[:, 1],
            2 * (at[14] - at[13])[:, 1],
            (at[291] - at[61])[:, 0],
            (at[473] - at[468])[:, 1],
        ],
        dim=1,
    )
    k = min(k, len(points) - 1)
    distance = torch.cdist(features, features).fill_diagonal_(float("inf"))
    return distance.topk(k, dim=1, largest=False).indices


def _jitter(images: list[Tensor], amount: float, rng: torch.Generator) -> list[Tensor]:
    """The same random gain per channel, gamma and saturation for every image of a pair."""
    b = len(images[0])

    def draw(*shape: int) -> Tensor:
        return 1 + amount * (2 * torch.rand(b, *shape, generator=rng) - 1)

    gain, gamma, saturation = draw(1, 1, 1), draw(1, 1, 1), draw(1, 1, 1)
    gain = gain * draw(3, 1, 1).sqrt()
    result = []
    for image in images:
        grey = image.mean(dim=1, keepdim=True)
        vivid = torch.lerp(grey.expand_as(image), image, saturation).clamp(0, 1)
        result.append((gain * vivid.pow(gamma)).clamp(0, 1))
    return result
