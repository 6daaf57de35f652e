"""The pipeline from two photos to a result: detect, align, encode, sample, paste."""

from __future__ import annotations

import copy
import itertools
import os
import secrets
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from facke_core.backends.choice import Choice
from facke_core.building import (
    DEFAULT_ENCODER,
    close_detector,
    encoder_settings,
    every_face,
    glanced,
)
from facke_core.environment import ForkSafeLock
from facke_core.errors import (
    CompatibilityError,
    FackeError,
    FackeWarning,
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
from facke_core.faces.portrait import MOST, SUFFIX, Giver, Portrait, View, giver
from facke_core.faces.pose import head_pose
from facke_core.faces.reframe import retemplate
from facke_core.faces.templates import Alignment
from facke_core.identity.digest import encoder_digest
from facke_core.identity.people import DIM, OTHER, Cast, Players, seen_as
from facke_core.images.files import pictures_in
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
    givers: list[Giver]
    seen: list[Face]
    covers: Tensor | None


SourceLike = ImageLike | Portrait | Sequence[ImageLike | Portrait]
"""A source: a photograph, several or a folder of one person, or a saved face."""


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
        source: SourceLike | Cast,
        target: ImageLike,
        *,
        seed: int | None = None,
        face: FaceChoice = "largest",
        source_face: int | None = None,
    ) -> SwapResult:
        """Swap faces in a photo.

        Args:
            source: gives the identity, by its largest face: a photograph; several, or a folder, of
                one person; a saved face (:class:`~facke_core.faces.portrait.Portrait`); or who
                becomes whom (:class:`~facke_core.identity.people.Cast`).
            target: the photo that is changed.
            seed: seed of the noise, for methods that draw any; default: a fresh one, which the
                result names. Some methods draw only if it is given
                (:class:`~facke_core.protocols.SeededSampler`). The global random state is neither
                read nor changed.
            face: the faces of the target to swap: ``largest``, ``all``, ``left``, ``right``, a
                number counted from the largest, 1, or several such numbers.
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
        source: SourceLike | Cast,
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
            source: gives the identity, as for a call.
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
        players = self.players(source, source_face=source_face, clock=clock)
        remaining = iter(enumerate(targets))
        while batch := list(itertools.islice(remaining, batch_size)):
            looked = []
            for number, target in batch:
                try:
                    looked.append(self._look(read_image(target), players, face, clock))
                except (ImageError, NoFaceError) as error:
                    if on_error is None:
                        raise
                    on_error(number, error)
            if looked:
                yield from self._swapped(looked, seed, clock)
            clock = StageClock(STAGES)

    def _look(
        self, photo: Photo, players: Players, choice: FaceChoice, clock: StageClock
    ) -> _Looked:
        with clock.stage("detect"):
            numbers_of(choice)  # refused before anything is looked for
            every = choice != "largest" or bool(len(players.references))
            seen = self._seen(photo, every=every)
            chosen, givers = players.among(photo, seen, choice)
        with clock.stage("align"):
            ready = [self.align(photo.image, face) for face in chosen]
        with clock.stage("occlusion"):
            covers = self.occlusion(photo.image, ready)
        return _Looked(photo, ready, givers, seen, covers)

    def given(
        self,
        targets: Sequence[AlignedFace],
        givers: Sequence[Giver],
        covers: Tensor | None,
        *,
        numbers: Sequence[int] | None = None,
    ) -> tuple[SwapInputs, list[AlignedFace]]:
        """What :meth:`sample` takes, and the photographs that were chosen of the sources.

        Args:
            targets: B faces that :meth:`align` made.
            givers: the source of each.
            covers: what covers each (B, 1, M, M); None: nobody looked.
            numbers: of the photographs of each source; default: those that are nearest.
        """
        numbers = numbers or [
            giver.nearest(head_pose(target.face))
            for giver, target in zip(givers, targets, strict=True)
        ]
        views = [giver.views[number] for giver, number in zip(givers, numbers, strict=True)]
        inputs = self.inputs(views, targets, torch.cat([giver.identity for giver in givers]))
        hidden = [
            giver.hidden[number]
            for giver, number in zip(givers, numbers, strict=True)
            if giver.hidden is not None
        ]
        if covers is not None and len(hidden) == len(targets):
            inputs = inputs._replace(source_occlusion=torch.stack(hidden), target_occlusion=covers)
        return inputs, views

    def _swapped(
        self, looked: Sequence[_Looked], seed: int | None, clock: StageClock
    ) -> Iterator[SwapResult]:
        with clock.stage("generate"):
            sampler, (rng, start) = self.sampler(seed), noise(seed)
            everyone = [face for each in looked for face in each.faces]
            givers = [giver for each in looked for giver in each.givers]
            known = [each.covers for each in looked if each.covers is not None]
            inputs, sources = self.given(everyone, givers, torch.cat(known) if known else None)
            swapped = iter(self.sample(inputs, rng=rng, sampler=sampler))
        with clock.stage("paste"):
            images, shares = [], []
            for photo, ready, _, seen, cover in looked:  # the largest faces are in front
                image, share = photo.image, torch.zeros_like(photo.image[:1])
                crops = [(i, face, next(swapped)) for i, face in enumerate(ready)]
                for i, face, crop in reversed(crops):
                    front = larger_than(face.face, seen)
                    hides = None if cover is None else cover[i]
                    image, own = self.paste(image, crop, face, front=front, occlusion=hides)
                    share = share * (1 - own) + own
                images.append(image)
                shares.append(share)
        request = self.request(sampler, seed, rng, start)
        seconds = {stage: value / len(looked) for stage, value in clock.seconds(total=True).items()}
        starts = itertools.accumulate((len(each.faces) for each in looked), initial=0)
        firsts = [sources[start] for start in itertools.islice(starts, len(looked))]
        for (photo, ready, _, seen, _), source, image, share in zip(
            looked, firsts, images, shares, strict=True
        ):
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

    def portrait(self, source: SourceLike, *, source_face: int | None = None) -> Portrait:
        """A source as something to keep: :meth:`~facke_core.faces.portrait.Portrait.save` it.

        Of several photographs those that cannot be used are left out.

        Args:
            source: a photograph, several or a folder of one person, or a saved face.
            source_face: the face in each photograph, counted from the largest, 1.

        Raises:
            ImageError, NoFaceError: no photograph can be read and shows a face.
            UsageError: an impossible ``source_face``, or photographs without number or end.

        Warns:
            FackeWarning: a photograph is left out, or seems to show somebody else.
        """
        views = self._views(source, source_face)
        if self.identity_encoder is None:
            return Portrait(views=views)
        crops = torch.stack([self.align(photo.image, face).crop for photo, face in views])
        return Portrait(views=views, encoder=self._encoder, identities=self.encode(crops))

    def players(
        self,
        source: SourceLike | Cast,
        *,
        source_face: int | None = None,
        clock: StageClock | None = None,
    ) -> Players:
        """What a source, or a cast, is for swaps: looked at once, used for any number of targets.

        Errors and warnings are those of :meth:`portrait`.
        """
        clock = clock or StageClock(STAGES)
        if not isinstance(source, Cast):
            return Players(torch.zeros(0, DIM), [], self._giver(source, source_face, clock))
        references, givers = [], []
        for reference, own in source.people:
            if isinstance(reference, Tensor) and reference.shape == (DIM,):
                references.append(reference)
            else:
                with clock.stage("detect"):
                    views = self._views(reference, None)
                known = torch.cat([seen_as(photo.image, [face]) for photo, face in views])
                references.append(torch.nn.functional.normalize(known.mean(0), dim=0))
            givers.append(None if own is None else self._giver(own, source_face, clock))
        others = source.others
        return Players(
            torch.stack(references) if references else torch.zeros(0, DIM),
            givers,
            None if others is None else self._giver(others, source_face, clock),
            source.during,
        )

    def _giver(self, source: SourceLike, source_face: int | None, clock: StageClock) -> Giver:
        kept = source
        if isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == SUFFIX:
            kept = Portrait.read(source)
        with clock.stage("detect"):
            views = self._views(kept, source_face)
        with clock.stage("align"):
            ready = [self.align(photo.image, face) for photo, face in views]
        with clock.stage("occlusion"):
            hidden = [
                self.occlusion(photo.image, [own])
                for (photo, _), own in zip(views, ready, strict=True)
            ]
        with clock.stage("encode"):
            if isinstance(kept, Portrait) and kept.encoder and kept.encoder == self._encoder:
                assert kept.identities is not None
                identities = kept.identities
            else:
                identities = self.encode(torch.stack([own.crop for own in ready]))
            identity = identities[:1]
            if len(identities) > 1:
                identity = torch.nn.functional.normalize(identities.mean(0, keepdim=True), dim=1)
        return giver(ready, hidden, identity)

    def _views(self, source: SourceLike, source_face: int | None) -> tuple[View, ...]:
        """The photographs of a source, and the face in each."""
        if isinstance(source, str | os.PathLike):
            path = Path(source)
            if path.suffix.lower() == SUFFIX:
                return Portrait.read(path).views
            if path.is_dir():
                source = list(pictures_in(path))
        if isinstance(source, Portrait):
            return source.views
        if not isinstance(source, list | tuple):
            photo = read_image(source)  # type: ignore[arg-type]
            return (View(photo, self._source_face(photo, source_face)),)
        if not 1 <= len(source) <= MOST:
            raise UsageError(
                f"A source of {len(source)} photographs is not possible. Give 1 to {MOST} pictures "
                "of one person."
            )
        views: list[View] = []
        faults: list[FackeError] = []
        for each in source:
            try:
                views += self._views(each, source_face)
            except (ImageError, NoFaceError) as error:
                faults.append(error)
        if not views:
            raise faults[0]
        for fault in faults:
            warnings.warn(f"Left out of the source: {fault}", FackeWarning, stacklevel=4)
        if len(views) > 1:
            known = torch.cat([seen_as(photo.image, [face]) for photo, face in views])
            alike = known @ known.sum(0) - 1  # to all others together
            for (photo, _), share in zip(views, (alike / (len(views) - 1)).tolist(), strict=True):
                if share < OTHER:
                    warnings.warn(
                        f"{photo.name} seems to show somebody else than the other photographs of "
                        f"the source (likeness {share:.2f}). Leave it out, or choose its face by "
                        "`source_face`.",
                        FackeWarning,
                        stacklevel=4,
                    )
        return tuple(views)

    @property
    def _encoder(self) -> str:
        """Digest of the identity encoder; empty without one."""
        if self.identity_encoder is None:
            return ""
        config = self.source.config.identity_encoder if self.source else None
        own = {"name": self.identity_encoder.spec.name} if self.source is None else DEFAULT_ENCODER
        return encoder_digest(self.identity_encoder, encoder_settings(config or own))

    def video(
        self,
        source: SourceLike | Cast,
        clip: str | os.PathLike[str],
        out: str | os.PathLike[str],
        **options: Any,
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
            sampler, (rng, start) = self.sampler(seed), noise(seed)
            image = self.swap_crops(*crops, identity=identity, rng=rng, sampler=sampler)[0]
        request = self.request(sampler, seed, rng, start)
        return SwapResult(image=image, faces=(), seconds=clock.seconds(total=True), request=request)

    def detect(self, photo: Tensor, *, every: bool = False, quick: bool = False) -> list[Face]:
        """The faces of a photo (3, H, W), largest first.

        The detector may stop at the first faces that it finds; with ``every``, one that can looks
        on, for small faces beside larger ones and for heads that lie or stand on their heads. With
        ``quick``, one that can looks once, for faces that are neither. Threads wait for each other
        here.
        """
        with self._detecting:
            if quick:
                faces = glanced(self.detector, photo)
            else:
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

    def _source_face(self, photo: Photo, number: int | None) -> Face:
        if number is None:
            return largest_of(self._seen(photo, every=False), photo)
        number = number_of(number, "source_face")
        return chosen_faces(self._seen(photo, every=True), number, photo)[0]

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

    def request(
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


def noise(seed: int | None) -> tuple[torch.Generator, Tensor]:
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
