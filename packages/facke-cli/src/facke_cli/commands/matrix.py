"""The command ``facke matrix``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facke_cli.commands.swap import find
from facke_cli.console import count, emit, progress, say, write
from facke_cli.options import AsJson, Device, Force, Quiet, check_apart, command, settings
from facke_cli.samples import sample_or_path
from facke_core.errors import ImageError, UsageError
from facke_core.plugins.registry import Registry, default_registry
from facke_core.weights.sources import Source, locate

if TYPE_CHECKING:
    from facke_core.figures import SwapFigure, View
    from facke_core.pipeline import SwapPipeline

__all__ = ["MatrixOptions", "matrix"]

TERMS = {"overwrite": "force", "sampler": "assignments", "view": "crop"}
SHOWN = 5
"""At most so many reasons for white cells are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixOptions:
    """They say whose faces are drawn by which methods, and how the picture looks."""

    sources: Annotated[
        list[str],
        typer.Option(metavar="PICTURE...", help="Whose identity; pictures, or folders of them."),
    ]
    targets: Annotated[
        list[str],
        typer.Option(metavar="PICTURE...", help="Whose faces are replaced; likewise."),
    ]
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The picture to write.")
    ]
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "--methods",
            metavar="NAME...",
            help="One or more. [default: the best installed]",
        ),
    ] = None
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REF...",
            help="METHOD.TAG, hf:org/repo[@revision] or ./folder, one or more; tags alone with "
            "one --method.",
        ),
    ] = None
    size: Annotated[int, typer.Option(min=16, max=4096, help="Pixels of a cell's side.")] = 192
    heads: Annotated[
        bool, typer.Option("--heads/--photos", help="Show heads of one size, or whole photographs.")
    ] = True
    crop: Annotated[
        bool,
        typer.Option("--crop", help="The pictures are aligned crops: no detection, no paste-back."),
    ] = False
    labels: Annotated[bool, typer.Option("--labels/--no-labels", help="Names on the pictures.")] = (
        True
    )
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="Of every cell, for methods that draw."),
    ] = None
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE...",
            help="Sampler settings; METHOD.KEY=VALUE for one of several methods.",
        ),
    ] = None
    device: Device = "auto"
    force: Force = False
    as_json: AsJson = False
    quiet: Quiet = False

    @property
    def view(self) -> View:
        """Return what is shown of the pictures."""
        return "crops" if self.crop else "heads" if self.heads else "photos"


@command(MatrixOptions)
def matrix(options: MatrixOptions) -> None:
    """Draw a face matrix: every source on every target.

    With one method, sources stand on the left and targets on top. With several methods, or several
    weights, sources and targets are pairs in their order: each row is a pair, each column a method.
    One source goes with all targets, one target with all sources. Cells of pictures without a face,
    or that cannot be read, stay white.
    """
    registry = default_registry()
    sampler = settings(options.assignments)
    sources, targets = (pictures(texts) for texts in (options.sources, options.targets))
    columns = _columns(options, registry)
    pairs = _pairs(sources, targets) if len(columns) > 1 else []
    rows, across = (len(pairs), len(columns) + 2) if pairs else (len(sources) + 1, len(targets) + 1)
    _check_files({*sources, *targets}, options, (across * options.size, rows * options.size))

    from facke_core.figures import FigureStyle, matrix_figure, methods_figure
    from facke_core.images.files import one_picture
    from facke_core.images.io import write_image
    from facke_core.images.provenance import disclosure

    started = time.monotonic()
    with one_picture(options.output):
        pipelines = _load(columns, sampler, options.device, registry)
        style = FigureStyle(
            view=options.view, size=options.size, labels=options.labels, seed=options.seed
        )
        with nullcontext() if options.quiet else progress() as show:
            if pairs:
                figure = methods_figure(pipelines, pairs, style, on_progress=show)
            else:
                (name, pipeline), *_ = pipelines.items()
                figure = matrix_figure(name, pipeline, sources, targets, style, on_progress=show)
        xmp = disclosure(_request(columns, options.seed))
        write_image(options.output, figure.image, xmp=xmp, overwrite=options.force)
    _report(options, figure, columns, time.monotonic() - started)


def pictures(texts: Sequence[str]) -> list[Path]:
    """Return the files that these words mean: samples, files, and the pictures in folders, by name.

    Raises:
        ImageError: a folder without pictures.
        UsageError: no such sample.
    """
    from facke_core.images.files import SUFFIXES, pictures_in

    files: list[Path] = []
    for text in texts:
        path = sample_or_path(text)
        inside = [path]
        if path.is_dir():
            inside = pictures_in(path)
            if not inside:
                raise ImageError(
                    f"{path} holds no picture ({', '.join(SUFFIXES)}). Give a folder that does; "
                    "those inside it are not searched."
                )
        files += inside
    return files


def _columns(options: MatrixOptions, registry: Registry) -> dict[str, Source]:
    """Return the weights of each column by its label."""
    methods, refs = options.methods or [], options.weights or []
    if len(methods) > 1 and refs:
        raise UsageError(
            f"{len(methods)} methods and --weights do not go together: leave --method out and "
            "write METHOD.TAG, hf:org/repo or ./folder for each column."
        )
    if methods and refs:
        named = [find(methods[0], ref, registry) for ref in refs]
    elif refs:
        named = [locate(ref, registry=registry) for ref in refs]
    else:
        named = [find(name, None, registry) for name in methods or (None,)]
    labels = [source.config.method for source in named]
    if len(set(labels)) < len(labels):
        labels = [source.name or source.config.method for source in named]
    if len(set(labels)) < len(labels):
        labels = refs or methods
    columns = dict(zip(labels, named, strict=True))
    if len(columns) < len(named):
        raise UsageError(f"A column appears twice: {', '.join(labels)}. Name each once.")
    return columns


def _pairs(sources: Sequence[Path], targets: Sequence[Path]) -> list[tuple[Path, Path]]:
    n = max(len(sources), len(targets))
    if {len(sources), len(targets)} - {1, n}:
        raise UsageError(
            f"{len(sources)} sources and {len(targets)} targets are no pairs, which several "
            "methods need. Give as many of each, or one of one kind."
        )
    wide = ([*files] * n if len(files) == 1 else files for files in (sources, targets))
    return list(zip(*wide, strict=True))


def _check_files(inputs: set[Path], options: MatrixOptions, size: tuple[int, int]) -> None:
    """Raise what can be known to fail about files before torch is imported.

    ``size`` is that of the figure, without the gaps.
    """
    from facke_core.images.files import check_input, check_output

    check_apart({"OUT": options.output}, inputs)
    check_output(options.output, overwrite=options.force, size=size)
    for picture in sorted(inputs):
        if not picture.is_file():  # a slip; one that is damaged costs its cells only
            check_input(picture)


def _load(
    columns: Mapping[str, Source],
    sampler: Mapping[str, Any],
    device: str,
    registry: Registry,
) -> dict[str, SwapPipeline]:
    from facke_core.loading import load

    methods = {source.config.method for source in columns.values()}
    common = {k: v for k, v in sampler.items() if k not in methods}
    own = {k: v for k, v in sampler.items() if k in methods}
    for method, value in own.items():
        if not isinstance(value, Mapping):
            raise UsageError(f"--set {method}={value} sets nothing. Write {method}.KEY=VALUE.")
    return {
        label: load(
            source,
            device=device,
            sampler={**common, **own.get(source.config.method, {})},
            registry=registry,
        )
        for label, source in columns.items()
    }


def _request(columns: Mapping[str, Source], seed: int | None) -> Any:
    """Return what the picture says about its making; it names all methods."""
    from facke_core.types import SwapRequest

    shown = list(columns.values())
    return SwapRequest(
        method=", ".join(source.config.method for source in shown),
        weights=", ".join(source.name for source in shown),
        revision=", ".join(source.revision for source in shown),
        seed=seed,
    )


def _report(
    options: MatrixOptions,
    figure: SwapFigure,
    columns: Mapping[str, Source],
    seconds: float,
) -> None:
    if options.as_json:
        emit(
            {
                "output": str(options.output),
                "columns": [
                    {
                        "name": label,
                        "method": source.config.method,
                        "weights": source.name or None,
                        "revision": source.revision or None,
                    }
                    for label, source in columns.items()
                ],
                "swaps": figure.made,
                "missing": [
                    {
                        "source": str(cell.source),
                        "target": str(cell.target),
                        "name": cell.method,
                        "reason": cell.reason,
                    }
                    for cell in figure.missing
                ],
                "seed": options.seed,
                "seconds": round(seconds, 3),
            }
        )
    elif not options.quiet:
        height, width = figure.image.shape[1:]
        write(
            f"{options.output}: {width} x {height} pixels, {count(figure.made, 'swap')} by "
            f"{', '.join(columns)} in {seconds:.1f} s"
        )
    if figure.missing and not options.quiet:
        reasons = list(dict.fromkeys(cell.reason.rstrip(".") for cell in figure.missing))
        more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        say(f"{len(figure.missing)} cells are white: {'; '.join(reasons[:SHOWN])}{more}")
