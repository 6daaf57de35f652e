"""The pictures of an evaluation: each is read, searched for a face and encoded once.

Faces and vectors are kept for good; photos and crops, which are large, only as long as there is
room, and read again where they are not.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core.config import from_dict
from facke_core.data.crops import CropSet
from facke_core.errors import DataError, ImageError
from facke_core.evaluation.tones import Tone, tone_of
from facke_core.faces.align import align, transform_points
from facke_core.faces.reframe import retemplate
from facke_core.faces.templates import Alignment, template_points
from facke_core.images.io import read_image, resize
from facke_core.jobs.pairs import PictureRef
from facke_core.pipeline import SwapPipeline
from facke_core.results import StageClock
from facke_core.types import AlignedFace, Face, SwapInputs

__all__: list[str] = []

ROOM = 512 * 2**20
"""Most bytes of photos and crops that are kept."""
SMALLEST = 128
"""Side in pixels to which smaller crops are enlarged before a detector looks at them."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The large part of a picture."""

    photo: Tensor
    """Photo (3, H, W) uint8, or float32 in [0, 1] where 8 bits are not enough."""
    aligned: AlignedFace
    """Face as the generator sees it."""
    occlusion: Tensor | None = None
    """What covers the face (1, S, S), as :meth:`~facke_core.pipeline.SwapPipeline.occlusion` finds
    it; None for crops of a dataset."""

    @property
    def size(self) -> int:
        """The bytes that it takes in memory."""
        covers = 0 if self.occlusion is None else self.occlusion.nbytes
        return self.photo.nbytes + self.aligned.crop.nbytes + covers


@dataclass(slots=True)
class KnownFace:
    """The small part of a picture; filled in as it becomes known."""

    face: Face | None
    """Face in the photo, by the pipeline's detector; None where there is none."""
    fault: str = ""
    """Why the photo cannot be read."""
    tone: Tone | Literal[""] = ""
    """Its skin tone; empty as long as nobody looked."""
    vectors: dict[str, Tensor] = field(default_factory=dict)
    """Vectors (D,) by role: ``identity``, which conditions the generator, ``trainer``,
    ``judge``."""


class PictureStore:
    """Photographs, or crops of a dataset, for one pipeline.

    A crop of a dataset becomes a photo by a margin around it, so that a detector sees a face in a
    picture; its five points are those of the template.
    """

    def __init__(
        self, pipeline: SwapPipeline, clock: StageClock, *, crops: CropSet | None = None
    ) -> None:
        self._pipeline, self._clock, self._crops = pipeline, clock, crops
        self._known: dict[str, KnownFace] = {}
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._alignment = _alignment_of(crops.info) if crops is not None else None

    def known(self, picture: PictureRef) -> KnownFace:
        """The small part of a picture; its face is looked for now, if it was not before."""
        known = self._known.get(picture.key)
        if known is None:
            try:
                photo, own = self.read(picture)
            except ImageError as error:
                fault = str(error).replace(str(picture.path), picture.name)
                return self._known.setdefault(picture.key, KnownFace(None, fault))
            # of two threads that look at once, both go on with what the first one found
            known = self._known.setdefault(picture.key, KnownFace(self.find(photo)))
            if own is not None or known.face is not None:
                self._keep(picture, photo, own, known)
        return known

    def usable(self, picture: PictureRef) -> bool:
        """Tell whether a picture can be source and target: a crop always, a photo with a face."""
        if picture.path is None or picture.fault:
            return not picture.fault
        return self.known(picture).face is not None

    def why_not(self, picture: PictureRef) -> str:
        """Say why a picture that cannot be used cannot be read; empty: it shows no face."""
        if picture.fault:
            return f"{picture.name} cannot be read: {picture.fault}"
        return self.known(picture).fault

    def load(self, picture: PictureRef) -> Loaded:
        """The photo and crop of a usable picture."""
        with self._lock:
            if picture.key in self._loaded:
                self._loaded.move_to_end(picture.key)
                return self._loaded[picture.key]
        known = self.known(picture)
        with self._lock:
            if picture.key in self._loaded:
                return self._loaded[picture.key]
        return self._keep(picture, *self.read(picture), known)

    def tone(self, picture: PictureRef) -> Tone:
        """The skin tone of a usable picture."""
        known = self.known(picture)
        if known.tone == "":
            photo = unpacked(self.load(picture).photo)
            with self._clock.stage("measure"):
                known.tone = tone_of(photo, known.face)
        return known.tone

    def find(self, photo: Tensor) -> Face | None:
        """The largest face of a photo (3, H, W) in [0, 1]."""
        with self._clock.stage("detect"):
            faces = self._pipeline.detect(photo)
        return faces[0] if faces else None

    def framed(self, crop: Tensor) -> Tensor:
        """A crop (3, S, S) with a margin around it, as a photo."""
        side = max(crop.shape[-1], SMALLEST)
        if crop.shape[-1] != side:
            crop = F.interpolate(crop[None], (side, side), mode="bilinear")[0]
        return F.pad(crop[None], [side // 4] * 4, mode="replicate")[0]

    def read(self, picture: PictureRef) -> tuple[Tensor, AlignedFace | None]:
        """The photo (3, H, W) in [0, 1], and the face where it is known without a detector."""
        with self._clock.stage("read"):
            if picture.path is not None:
                return read_image(picture.path).image, None
            assert self._crops is not None
            assert self._alignment is not None
            crop = self._crops.images[torch.tensor([picture.row])].float() / 255
            wanted = self._pipeline.alignment
            size = (wanted.size, wanted.size)
            crop = retemplate(crop, self._alignment, wanted.template, wanted.size)
            if crop.shape[-2:] != size:
                crop = resize(crop, size)
            crop = crop[0].clamp(0, 1)
            return self.framed(crop), _in_frame(crop, wanted)

    def _keep(
        self, picture: PictureRef, photo: Tensor, own: AlignedFace | None, known: KnownFace
    ) -> Loaded:
        covers = None
        if own is None:
            assert known.face is not None, "only usable pictures are loaded"
            with self._clock.stage("align"):
                own = align(photo, known.face, self._pipeline.alignment)
            with self._clock.stage("occlusion"):
                hidden = self._pipeline.occlusion(photo, [own])
                covers = None if hidden is None else hidden[0]
        loaded = Loaded(_packed(photo), own, covers)
        with self._lock:
            if picture.key not in self._loaded:
                self._loaded[picture.key] = loaded
                self._bytes += loaded.size
            while self._bytes > ROOM and len(self._loaded) > 1:
                self._bytes -= self._loaded.popitem(last=False)[1].size
        return loaded


def inputs_of(
    pipeline: SwapPipeline, givers: Sequence[Loaded], takers: Sequence[Loaded], identity: Tensor
) -> SwapInputs:
    """What a sampler gets for B pairs of pictures and identities (B, D)."""
    inputs = pipeline.inputs(
        [giver.aligned for giver in givers], [taker.aligned for taker in takers], identity
    )
    covers = [
        [picture.occlusion for picture in pictures if picture.occlusion is not None]
        for pictures in (givers, takers)
    ]
    if not len(givers) == len(covers[0]) == len(covers[1]):
        return inputs
    source, target = (torch.stack(each) for each in covers)
    return inputs._replace(source_occlusion=source, target_occlusion=target)


def unpacked(photo: Tensor) -> Tensor:
    """A photo of :class:`Loaded` as it was read: (3, H, W) float32 in [0, 1]."""
    return photo.float() / 255 if photo.dtype == torch.uint8 else photo


def _packed(photo: Tensor) -> Tensor:
    small = (photo * 255).round().byte()
    return small if torch.equal(unpacked(small), photo) else photo


def _in_frame(crop: Tensor, alignment: Alignment) -> AlignedFace:
    """The crop as a face of the photo that :meth:`PictureStore.framed` makes of it."""
    size = alignment.size
    side = max(size, SMALLEST)
    scale, margin = size / side, side // 4
    # pixel areas, not centres, are what resizing aligns
    shift = (scale - 1) / 2 - margin * scale
    matrix = torch.tensor([[scale, 0.0, shift], [0.0, scale, shift]], dtype=torch.float64)
    points = template_points(alignment.template, size)
    back = torch.tensor([[1 / scale, 0.0, -shift / scale], [0.0, 1 / scale, -shift / scale]])
    landmarks = transform_points(back[None].double(), points[None])[0].float()
    box = torch.cat([landmarks.amin(0), landmarks.amax(0)])
    return AlignedFace(crop, matrix.float(), Face(box, landmarks, 1.0))


def _alignment_of(info: Mapping[str, Any]) -> Alignment:
    if "alignment" not in info:
        raise DataError(
            f"The dataset {info.get('name', '')!r} does not say how its crops are aligned. Add "
            '"alignment": {"template": ..., "size": ...} to its dataset.json.'
        )
    return from_dict(Alignment, info["alignment"], where="dataset.json.alignment")
