"""Figures of swaps, from files: sources x targets for one method, or pairs x methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from facke_core.errors import ImageError, NoFaceError, UsageError
from facke_core.faces.align import align
from facke_core.faces.templates import Alignment
from facke_core.images.files import MAX_PIXELS
from facke_core.images.grid import GAP, face_matrix, picture_grid
from facke_core.images.io import read_image
from facke_core.pipeline import SwapPipeline
from facke_core.types import Face, Progress

__all__ = ["FigureStyle", "SwapFigure", "matrix_figure", "methods_figure"]

View = Literal["heads", "photos", "crops"]
"""The part of the pictures that a figure shows. ``heads``: faces are found and swapped in the
photograph, and the heads cut out, upright and of one size. ``photos``: the whole photographs.
``crops``: the pictures are aligned crops already."""
_OPEN = 8
"""Number of photographs that are kept decoded."""


class Missing(NamedTuple):
    """A cell that stayed white."""

    source: Path
    target: Path
    method: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapFigure:
    """A picture of swaps."""

    image: Tensor
    """Picture (3, H, W) float32 in [0, 1]."""
    made: int
    """Number of cells with a result."""
    missing: Sequence[Missing]
    """Cells without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureStyle:
    """The looks of a figure, and the seed of its swaps."""

    view: View = "heads"
    size: int = 192
    """Side of a cell in pixels."""
    labels: bool = True
    """File names on the pictures of a matrix, names of columns on the others."""
    seed: int | None = None
    """Seed of every cell's swap, as :class:`~facke_core.pipeline.SwapPipeline` takes it."""


def matrix_figure(
    name: str,
    pipeline: SwapPipeline,
    sources: Sequence[Path],
    targets: Sequence[Path],
    style: FigureStyle,
    *,
    on_progress: Progress | None = None,
) -> SwapFigure:
    """Draw sources down the left, targets along the top, and results of one pipeline inside.

    Pictures in which no face is found are shown whole, and their cells stay white. Those that
    cannot be read, or are no squares in the view ``crops``, cost their cells, too.

    Raises:
        NoFaceError: not one cell could be made.
        UsageError: the picture would be too large.
    """
    _check_size(len(sources) + 1, len(targets) + 1, style.size)
    pairs = [(source, target) for source in sources for target in targets]
    studio = _Studio({name: pipeline}, style, len(pairs), on_progress)
    made = [studio.swap(name, *pair) for pair in pairs]
    cells = [made[i : i + len(targets)] for i in range(0, len(made), len(targets))]
    named = style.labels
    image = face_matrix(
        [studio.shown(path) for path in sources],
        [studio.shown(path) for path in targets],
        cells,
        size=style.size,
        source_labels=[path.stem for path in sources] if named else (),
        target_labels=[path.stem for path in targets] if named else (),
    )
    return studio.figure(image)


def methods_figure(
    pipelines: Mapping[str, SwapPipeline],
    pairs: Sequence[tuple[Path, Path]],
    style: FigureStyle,
    *,
    on_progress: Progress | None = None,
) -> SwapFigure:
    """Draw a row for each pair (source, target): both pictures, then the result of every pipeline.

    Errors are those of :func:`matrix_figure`.
    """
    _check_size(len(pairs), len(pipelines) + 2, style.size)
    studio = _Studio(pipelines, style, len(pairs) * len(pipelines), on_progress)
    rows = []
    for source, target in pairs:
        results = [studio.swap(name, source, target) for name in pipelines]
        rows.append([studio.shown(source), studio.shown(target), *results])
    labels = ["source", "target", *pipelines] if style.labels else ()
    return studio.figure(picture_grid(rows, size=style.size, labels=labels))


def _check_size(rows: int, columns: int, size: int) -> None:
    height, width = (count * (size + GAP) - GAP for count in (rows, columns))
    if height * width > MAX_PIXELS:
        raise UsageError(
            f"{rows} rows and {columns} columns of {size} pixels make a picture of {width} x "
            f"{height}: at most {MAX_PIXELS // 10**6} megapixels are drawn. Take fewer pictures or "
            "a smaller size."
        )


class _Studio:
    """Swaps files and cuts out what the figure shows of them."""

    def __init__(
        self,
        pipelines: Mapping[str, SwapPipeline],
        style: FigureStyle,
        cells: int,
        on_progress: Progress | None,
    ) -> None:
        self.pipelines, self.style, self.cells, self.on_progress = (
            pipelines,
            style,
            cells,
            on_progress,
        )
        self.missing: list[Missing] = []
        self.done = 0
        self._photo = lru_cache(_OPEN)(_read)
        self._faults: dict[Path, str] = {}
        self._faces: dict[Path, Face | None] = {}

    def photo(self, path: Path) -> Tensor:
        """The photograph (3, H, W) in [0, 1]; transparent places are white.

        Raises:
            ImageError: it cannot be read.
        """
        if path in self._faults:
            raise ImageError(self._faults[path])
        try:
            return self._photo(path)
        except ImageError as error:
            self._faults[path] = str(error)
            raise

    def face(self, path: Path) -> Face | None:
        """The largest face of a photograph; None where there is none."""
        if path not in self._faces:
            pipeline = next(iter(self.pipelines.values()))
            faces = pipeline.detect(self.photo(path))
            self._faces[path] = faces[0] if faces else None
        return self._faces[path]

    def shown(self, path: Path, image: Tensor | None = None) -> Tensor | None:
        """The part of a photograph that is shown, or of ``image``, which it became; None where it
        cannot be read."""
        try:
            image = self.photo(path) if image is None else image
        except ImageError:
            return None
        face = self.face(path) if self.style.view == "heads" else None
        if face is None:
            return image
        return align(image, face, Alignment(template="ffhq", size=self.style.size)).crop

    def swap(self, name: str, source: Path, target: Path) -> Tensor | None:
        """The result for a cell; None where a face or a picture is missing."""
        result = None
        try:
            result = self._result(name, source, target)
        except (ImageError, NoFaceError) as error:
            self.missing.append(Missing(source, target, name, str(error)))
        self.done += 1
        if self.on_progress:
            self.on_progress("swaps", self.done, self.cells)
        return result

    def _result(self, name: str, source: Path, target: Path) -> Tensor | None:
        pipeline, seed = self.pipelines[name], self.style.seed
        if self.style.view == "crops":
            return pipeline.swap_files(source, target, seed=seed).image
        without = list(dict.fromkeys(path for path in (source, target) if self.face(path) is None))
        if without:
            raise NoFaceError(f"no face was found in {' and '.join(map(str, without))}")
        result = pipeline(self.photo(source), self.photo(target), seed=seed)
        return self.shown(target, result.image)

    def figure(self, image: Tensor) -> SwapFigure:
        made = self.cells - len(self.missing)
        if not made:
            reasons = list(dict.fromkeys(cell.reason.rstrip(".") for cell in self.missing))
            raise NoFaceError(
                f"Not one of {self.cells} swaps could be made: {'; '.join(reasons[:5])}. Use "
                "pictures that can be read and show a face, not in full profile, or aligned "
                "crops with `view='crops'`."
            )
        return SwapFigure(image=image, made=made, missing=tuple(self.missing))


def _read(path: Path) -> Tensor:
    photo = read_image(path)
    return photo.image if photo.alpha is None else photo.image * photo.alpha + 1 - photo.alpha
