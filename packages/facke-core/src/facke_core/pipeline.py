"""The pipeline from two photos to a result: detect, align, encode, sample, paste."""

from __future__ import annotations

import copy
import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from facke_core.backends.choice import Choice
from facke_core.building import close_detector, every_face
from facke_core.environment import ForkSafeLock
from facke_core.errors import (
    CompatibilityError,
    FackeError,
    ImageError,
    NoFaceError,
    UsageError,
    WeightsError,
)
from facke_core.faces.align import align, meshes
from facke_core.faces.choosing import (
    FaceChoice,
    chosen_faces,
    larger_than,
    largest_of,
    number_of,
    numbers_of,
    shown,
)
from facke_core.faces.doubts import looked_over
from facke_core.faces.occlusion import occlusion
from facke_core.faces.paste import Pasted, mask_behind, paste
from facke_core.faces.reframe import retemplate
from facke_core.faces.templates import Alignment
from facke_core.images.io import ImageLike, Photo, read_image, resize
from facke_core.plugins.registry import default_registry
from facke_core.protocols import FaceDetector, IdentityEncoder, Method, Sampler, SeededSampler
from facke_core.results import StageClock, SwapResult
from facke_core.sampling import check_compatible
from facke_core.types import AlignedFace, Blend, Face, SwapInputs, SwapRequest

if TYPE_CHECKING:
    from facke_core.plugins.registry import Registry
    from facke_core.weights.sources import Source

__all__: list[str] = []

STAGES = ("detect", "align", "occlusion", "encode", "generate", "paste")
"""What a swap spends its time on."""
OCCLUSION_SIZE = 256
"""Least side of the masks of what lies before a face: rims of glasses are thin."""


class _Looked(NamedTuple):
    """A target photo, the faces to swap in it, all that were seen, and what covers the former."""

    photo: Photo
    faces: list[AlignedFace]
    seen: list[Face]
    covers: Tensor | None


class SwapPipeline:
    """A pipeline puts the identity of one photo on the face of another. :func:`facke_core.load`
    makes it::

        swapper = load("simswap")
        result = swapper("source.jpg", "target.jpg", face="all", seed=0)

    Every stage is a public method and can be used alone. Photos and results are RGB in [0, 1] on
    the CPU; the networks run on ``device`` in the dtype of the generator's parameters. Noise is
    drawn from a generator that each call makes from its seed.

    Several threads may use one pipeline. It can be closed, forked, pickled and copied
    (docs/concepts.md, "Threads, processes, copies").

    Args:
        method: generator and sampler.
        identity_encoder: the encoder that the generator was trained with; None if it takes no
            identity.
        detector: finds faces in photos.
        alignment: the framing in which the generator wants its crops.
        registry: whose ``facke_result`` hooks see the results; default: everything installed.
        source: where the weights come from, for the disclosure in results.
        device: the device that generator and encoder are on.
        choice: runtime and number format of the generator, for results to name; default: torch.
        blend: how a swapped face is put into the photo.

    Raises:
        CompatibilityError: sampler, generator, encoder or alignment do not fit together.
    """

    def __init__(
        self,
        method: Method,
        *,
        identity_encoder: IdentityEncoder | None,
        detector: FaceDetector,
        alignment: Alignment,
        registry: Registry | None = None,
        source: Source | None = None,
        device: str | torch.device = "cpu",
        choice: Choice | None = None,
        blend: Blend | None = None,
    ) -> None:
        check_compatible(*method, identity_encoder)
        size = method.generator.spec.image_size
        if alignment.size != size:
            raise CompatibilityError(
                f"The generator takes crops of {size} pixels, but the alignment makes crops of "
                f"{alignment.size}. Give Alignment(template={alignment.template!r}, size={size})."
            )
        self.method = method
        self.identity_encoder = identity_encoder
        self.detector = detector
        self.alignment = alignment
        self.registry = registry or default_registry()
        self.source = source
        self.device = torch.device(device)
        self.choice = choice or Choice(
            backend="torch", dtype=str(self.dtype).removeprefix("torch.")
        )
        self.blend = blend or Blend()
        self._detecting = ForkSafeLock()

    def close(self) -> None:
        """Free what the detector holds beside memory; a later photo opens it again.

        Networks go when nothing refers to the pipeline any more.
        """
        with self._detecting:
            close_detector(self.detector)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> SwapPipeline:
        memo[id(self.registry)] = self.registry  # plugins are modules, and those are not copied
        other = object.__new__(type(self))
        memo[id(self)] = other
        vars(other).update(copy.deepcopy(vars(self), memo))
        return other

    def __call__(
        self,
        source: ImageLike,
        target: ImageLike,
        *,
        seed: int | None = None,
        face: FaceChoice = "largest",
        source_face: int | None = None,
    ) -> SwapResult:
        """Swap faces in a photo.

        Args:
            source: gives the identity, by its largest face.
            target: the photo that is changed.
            seed: seed of the noise, for methods that draw any; default: a fresh one, which the
                result names. Some methods draw only if it is given
                (:class:`~facke_core.protocols.SeededSampler`). The global random state is neither
                read nor changed.
            face: the faces of the target to swap: ``largest``, ``all``, a number counted from
                the largest, 1, or several such numbers.
            source_face: the face of the source that gives the identity, counted from the largest,
                1; default: the largest, with a warning where there are others.

        Raises:
            ImageError: a picture cannot be read.
            NoFaceError: no face, or fewer than ``face`` or ``source_face`` ask for.
            UsageError: an impossible ``seed``, ``face`` or ``source_face``.
            WeightsError: the encoder or the method computes numbers that are not finite.

        Warns:
            FackeWarning: a face is doubtful (:attr:`~facke_core.types.Face.doubts`), or the source
                shows several and none was chosen.
        """
        targets = [target]
        return next(self.swap_many(source, targets, seed=seed, face=face, source_face=source_face))

    def swap_many(
        self,
        source: ImageLike,
        targets: Iterable[ImageLike],
        *,
        seed: int | None = None,
        face: FaceChoice = "largest",
        source_face: int | None = None,
        batch_size: int = 8,
        on_error: Callable[[int, FackeError], None] | None = None,
    ) -> Iterator[SwapResult]:
        """Swap faces in many photos. The source is looked at once; the faces of ``batch_size``
        photos go through the generator together.

        Args:
            source: gives the identity, by its largest face.
            targets: the photos that are changed; read as they are needed.
            seed: seed of the noise, with which each batch begins again. Where a method draws
                noise, what a photo gets depends on its place in the batch.
            face: the faces of each target to swap.
            source_face: the face of the source, as for a call.
            batch_size: photos at a time.
            on_error: called with the number of a target, from 0, that cannot be read or shows no
                such face, and with the error; the others go on. Default: the error is raised.

        Yields:
            One result per target, in order, but for those that ``on_error`` hears of. Its
            ``seconds`` are its share of the batch's.

        Raises:
            ImageError: a picture cannot be read.
            NoFaceError: no face, or fewer than ``face`` or ``source_face`` ask for.
            UsageError: an impossible ``seed``, ``face``, ``source_face`` or ``batch_size``.
            WeightsError: the encoder or the method computes numbers that are not finite.

        Warns:
            FackeWarning: as a call does.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size} is not possible. Use a number from 1.")
        clock = StageClock(STAGES)
        photo = read_image(source)
        with clock.stage("detect"):
            giver = self._source_face(photo, source_face)
        with clock.stage("align"):
            own = self.align(photo.image, giver)
        with clock.stage("occlusion"):
            hidden = self.occlusion(photo.image, [own])
        with clock.stage("encode"):
            identity = self.encode(own.crop[None])
        remaining = iter(enumerate(targets))
        while batch := list(itertools.islice(remaining, batch_size)):
            looked = []
            for number, target in batch:
                try:
                    looked.append(self._look(read_image(target), face, clock))
                except (ImageError, NoFaceError) as error:
                    if on_error is None:
                        raise
                    on_error(number, error)
            if looked:
                yield from self._swapped(own, hidden, identity, looked, seed, clock)
            clock = StageClock(STAGES)

    def _look(self, photo: Photo, choice: FaceChoice, clock: StageClock) -> _Looked:
        with clock.stage("detect"):
            chosen, seen = self._faces(photo, choice)
        with clock.stage("align"):
            ready = [self.align(photo.image, face) for face in chosen]
        with clock.stage("occlusion"):
            covers = self.occlusion(photo.image, ready)
        return _Looked(photo, ready, seen, covers)

    def _swapped(
        self,
        source: AlignedFace,
        hidden: Tensor | None,
        identity: Tensor,
        looked: Sequence[_Looked],
        seed: int | None,
        clock: StageClock,
    ) -> Iterator[SwapResult]:
        with clock.stage("generate"):
            sampler, (rng, start) = self.sampler(seed), _random(seed)
            everyone = [face for each in looked for face in each.faces]
            count = len(everyone)
            inputs = self.inputs([source] * count, everyone, identity.expand(count, -1))
            covers = [each.covers for each in looked if each.covers is not None]
            if hidden is not None and covers:
                inputs = inputs._replace(
                    source_occlusion=hidden.expand(count, -1, -1, -1),
                    target_occlusion=torch.cat(covers),
                )
            swapped = iter(self.sample(inputs, rng=rng, sampler=sampler))
        with clock.stage("paste"):
            images, shares = [], []
            for photo, ready, seen, cover in looked:  # the largest faces are in front
                image, share = photo.image, torch.zeros_like(photo.image[:1])
                crops = [(i, face, next(swapped)) for i, face in enumerate(ready)]
                for i, face, crop in reversed(crops):
                    front = larger_than(face.face, seen)
                    hides = None if cover is None else cover[i]
                    image, own = self.paste(image, crop, face, front=front, occlusion=hides)
                    share = share * (1 - own) + own
                images.append(image)
                shares.append(share)
        request = self._request(sampler, seed, rng, start)
        seconds = {stage: value / len(looked) for stage, value in clock.seconds(total=True).items()}
        for (photo, ready, seen, _), image, share in zip(looked, images, shares, strict=True):
            result = SwapResult(
                image=image,
                faces=tuple(aligned.face for aligned in ready),
                faces_seen=len(seen),
                source=source.face,
                mask=share,
                seconds=seconds,
                request=request,
                alpha=photo.alpha,
            )
            yield self.registry.apply_result(result, request)

    def video(
        self, source: ImageLike, clip: str | PathLike[str], out: str | PathLike[str], **options: Any
    ) -> Any:
        """Swap the faces of a clip: :func:`facke_core.video.swapping.swap_video`, which says what
        ``options`` there are, and what it returns and raises."""
        # named, not imported: clips are made of pipelines, and not the other way round
        swap_video = self.registry.resolve("facke_core.video.swapping:swap_video")
        return swap_video(self, source, clip, out, **options)

    def swap_files(
        self, source: ImageLike, target: ImageLike, *, seed: int | None = None
    ) -> SwapResult:
        """Swap pictures that are aligned crops already: nothing is detected, aligned or pasted.

        Square crops of another size than the generator's are resized to it. The result has the
        generator's size; no ``facke_result`` hook sees it.

        Raises:
            ImageError: a picture cannot be read or is not square.
        """
        clock = StageClock(STAGES)
        crops = [self._as_crop(read_image(picture)) for picture in (source, target)]
        with clock.stage("encode"):
            identity = self.encode(crops[0])
        with clock.stage("generate"):
            sampler, (rng, start) = self.sampler(seed), _random(seed)
            image = self.swap_crops(*crops, identity=identity, rng=rng, sampler=sampler)[0]
        request = self._request(sampler, seed, rng, start)
        return SwapResult(image=image, faces=(), seconds=clock.seconds(total=True), request=request)

    def detect(self, photo: Tensor, *, every: bool = False) -> list[Face]:
        """The faces of a photo (3, H, W), largest first.

        The detector may stop at the first faces that it finds; with ``every``, one that can looks
        on, for small faces beside larger ones and for heads that lie or stand on their heads.
        Threads wait for each other here.
        """
        with self._detecting:
            faces = every_face(self.detector, photo) if every else self.detector(photo)
        return [looked_over(face, photo) for face in faces]

    def align(self, photo: Tensor, face: Face) -> AlignedFace:
        """The crop (3, S, S) of a face of a photo (3, H, W), and the map (2, 3) to its pixels.

        Raises:
            NoFaceError: the landmarks coincide or are not finite.
        """
        return align(photo, face, self.alignment)

    def encode(self, crops: Tensor) -> Tensor:
        """The identities (B, D), unit norm, of crops (B, 3, S, S) that :meth:`align` made; any S.

        They are (B, 0) where the generator takes no identity.

        Raises:
            WeightsError: the encoder computes numbers that are not finite.
        """
        if self.identity_encoder is None:
            return crops.new_zeros(len(crops), 0)
        spec = self.identity_encoder.spec
        with torch.inference_mode():
            framed = retemplate(
                crops.to(self.device, torch.float32), self.alignment, spec.template, spec.input_size
            )
            identity = self.identity_encoder(framed).to(crops.device)
        _check_finite(identity, f"The encoder {spec.name!r}")
        return identity.clone()  # an ordinary tensor again

    def swap_crops(
        self,
        source: Tensor,
        target: Tensor,
        *,
        identity: Tensor | None = None,
        rng: torch.Generator | None = None,
        sampler: Sampler[Any] | None = None,
    ) -> Tensor:
        """Swap crops: the results (B, 3, S, S) float32 in [0, 1], on the device of ``target``.

        Args:
            source: crops (B, 3, S, S) in [0, 1] that give the identity.
            target: crops (B, 3, S, S) in [0, 1] that give everything else.
            identity: identities (B, D); default: the encoding of ``source``.
            rng: the source of noise, for methods that draw any. Give one on the CPU to get the same
                result on every device.
            sampler: takes the place of the method's own.

        Raises:
            WeightsError: the method, or the encoder, computes numbers that are not finite.
        """
        if identity is None:
            identity = self.encode(source)
        return self.sample(SwapInputs(source, target, identity), rng=rng, sampler=sampler)

    def inputs(
        self, sources: Sequence[AlignedFace], targets: Sequence[AlignedFace], identity: Tensor
    ) -> SwapInputs:
        """What :meth:`sample` takes, of B faces that :meth:`align` made and identities (B, D)."""
        return SwapInputs(
            source=torch.stack([face.crop for face in sources]),
            target=torch.stack([face.crop for face in targets]),
            identity=identity,
            source_mesh=meshes(sources),
            target_mesh=meshes(targets),
        )

    def sample(
        self,
        inputs: SwapInputs,
        *,
        rng: torch.Generator | None = None,
        sampler: Sampler[Any] | None = None,
    ) -> Tensor:
        """Swap what the sampler gets, on any device and in any dtype: the results (B, 3, S, S)
        float32 in [0, 1], on the device of the targets.

        Args:
            inputs: crops, identities, and what else is known; meshes stay in float32.
            rng: as for :meth:`swap_crops`.
            sampler: takes the place of the method's own.
        """
        generator, own = self.method
        kept = ("source_mesh", "target_mesh")
        with torch.inference_mode():
            moved = {
                name: value.to(self.device, torch.float32 if name in kept else self.dtype)
                for name, value in inputs._asdict().items()
                if isinstance(value, Tensor)
            }
            asked = inputs._replace(alignment=self.alignment, **moved)
            result = (sampler or own)(generator, asked, rng=rng)
            result = result.to(inputs.target.device, torch.float32)
        _check_finite(result, f"The method {self._method_name!r} ({self._computed_by})")
        return result.clone()  # an ordinary tensor again

    def occlusion(self, photo: Tensor, faces: Sequence[AlignedFace]) -> Tensor | None:
        """The share (N, 1, S, S) of each pixel of N faces of a photo (3, H, W) that something
        before them covers; None where ``blend`` does not ask for it."""
        if not self.blend.occlusion:
            return None
        return occlusion(photo, faces, max(self.alignment.size, OCCLUSION_SIZE))

    def paste(
        self,
        photo: Tensor,
        crop: Tensor,
        face: AlignedFace,
        *,
        front: Sequence[Face] = (),
        occlusion: Tensor | None = None,
    ) -> Pasted:
        """The photo (3, H, W) with the swapped crop (3, S, S) blended into the face region, but for
        what the faces in ``front`` of it cover, and for what ``occlusion`` (1, M, M) says.

        Raises:
            WeightsError: the crop holds numbers that are not finite.
        """
        _check_finite(crop[None], "What made the crop")
        mask = mask_behind(face, front)
        if occlusion is not None:
            size = (occlusion.shape[1], occlusion.shape[2])
            mask = resize(mask[None], size)[0].clamp(0, 1) * (1 - occlusion)
        return paste(photo, crop, face, mask, color=self.blend.color, grain=self.blend.grain)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the generator's parameters; float32 where it has none."""
        generator = self.method.generator
        parameters = generator.parameters() if isinstance(generator, nn.Module) else iter(())
        first = next(parameters, None)
        return torch.float32 if first is None else first.dtype

    @property
    def _method_name(self) -> str:
        return self.source.config.method if self.source else type(self.method.generator).__name__

    @property
    def _computed_by(self) -> str:
        weights = f"weights {self.source.name}, " if self.source and self.source.name else ""
        return f"{weights}backend {self.choice}"

    def _faces(self, photo: Photo, choice: FaceChoice) -> tuple[list[Face], list[Face]]:
        """The faces to swap, and those that were seen."""
        numbers = numbers_of(choice)
        faces = self._seen(photo, every=choice != "largest")
        return chosen_faces(faces, numbers, photo, every=choice == "all"), faces

    def _source_face(self, photo: Photo, number: int | None) -> Face:
        if number is None:
            return largest_of(self._seen(photo, every=False), photo)
        numbers = [number_of(number, "source_face")]
        return chosen_faces(self._seen(photo, every=True), numbers, photo)[0]

    def _seen(self, photo: Photo, *, every: bool) -> list[Face]:
        faces = self.detect(photo.image, every=every)
        if not faces:
            raise NoFaceError(
                f"No face was found in {shown(photo, self.detector.threshold)}. Use a picture "
                "that shows a face, not in full profile, and at least about 20 pixels wide."
            )
        return faces

    def _as_crop(self, photo: Photo) -> Tensor:
        height, width = photo.image.shape[1:]
        if height != width:
            raise ImageError(
                f"{photo.name} has {width} x {height} pixels, but aligned crops are square. "
                "Give a square crop, or let the face be detected in the photo."
            )
        size = self.alignment.size
        return photo.image[None] if width == size else resize(photo.image[None], (size, size))

    def sampler(self, seed: int | None) -> Sampler[Any]:
        """The method's sampler; with a seed, the one that draws noise, if it has one
        (:class:`~facke_core.protocols.SeededSampler`)."""
        sampler = self.method.sampler
        if seed is not None and isinstance(sampler, SeededSampler):
            return sampler.seeded()
        return sampler

    def _request(
        self, sampler: Sampler[Any], seed: int | None, rng: torch.Generator, start: Tensor
    ) -> SwapRequest:
        """The record for results; it names a seed that was drawn here only if noise was drawn."""
        used = not torch.equal(rng.get_state(), start)
        settings = getattr(sampler, "__dataclass_fields__", {})
        return SwapRequest(
            method=self._method_name,
            weights=self.source.name if self.source else "",
            revision=self.source.revision if self.source else "",
            seed=rng.initial_seed() if seed is None and used else seed,
            settings={name: getattr(sampler, name) for name in settings},
            backend=str(self.choice),
        )


def _random(seed: int | None) -> tuple[torch.Generator, Tensor]:
    """A random generator of its own on the CPU, and its state before anything was drawn."""
    if seed is not None and not 0 <= seed < 2**63:
        raise UsageError(f"seed={seed} is not possible. Use a number from 0 to 2**63 - 1.")
    rng = torch.Generator().manual_seed(secrets.randbits(63) if seed is None else seed)
    return rng, rng.get_state()


def _check_finite(made: Tensor, by: str) -> None:
    """Refuse values (B, ...) with NaN or infinity among them, which would be pasted as black."""
    if bool(made.isfinite().all()):
        return
    bad = int((~made.isfinite()).flatten(1).any(dim=1).sum())
    raise WeightsError(
        f"{by} computed numbers that are not finite (NaN or infinite) for {bad} of {len(made)} "
        "faces, so there is no result. Check the weights by `facke weights verify`; where they are "
        "right, try `backend='torch'` and `dtype=torch.float32`."
    )
