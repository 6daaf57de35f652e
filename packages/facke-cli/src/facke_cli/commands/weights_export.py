"""The command ``facke weights export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from facke_cli.console import emit, say, write
from facke_cli.options import AsJson
from facke_cli.samples import sample_or_path
from facke_core.errors import DataError, ImageError, NoFaceError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from facke_core.pipeline import SwapPipeline
    from facke_core.publish.export import Exported

__all__ = ["crops_of", "weights_export"]

TERMS = {"crops": "int8"}
SAMPLES = ("sample:collins", "sample:hopper")
MOST = 64
"""Calibration looks at so many pictures of a folder."""


def weights_export(
    reference: Annotated[
        str,
        typer.Argument(metavar="REF", help="METHOD, METHOD.TAG, hf:org/repo, or ./folder."),
    ],
    form: Annotated[Literal["onnx"], typer.Option("--format", help="Of the graph.")] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="[default: REF.onnx]"),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(metavar="N", help="Of ONNX, 18 to 23. [default: torch's]")
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Quantise the inner convolutions to 8 bits, and keep the graph only if picture "
            "and identity hold.",
        ),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Photographs whose faces calibrate --int8. [default: the two samples, varied]",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite FILE, and keep a poor graph in 8 bits."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the generator of REF as a graph for other runtimes, and compare it with torch.

    The graph takes any batch size. It is run by ONNX Runtime and kept only if it computes what
    torch does. With --int8 it exits with 3 where 8 bits are not enough.
    """
    if calibrate is not None and not int8:
        raise UsageError("--calibrate has a meaning with --int8 only. Add that, or leave it out.")
    name = reference.rpartition("/")[2].partition("@")[0]
    if Path(reference).is_dir():
        name = Path(reference).resolve().name
    path = output or Path(f"{name}.onnx")
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path} does not end in .onnx. Choose such a name.")
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Give the name of a file.")
    if path.exists() and not force:
        raise UsageError(f"{path} exists already. Choose another name, or overwrite it by --force.")

    from facke_core.loading import load
    from facke_core.publish.export import export

    pipeline = load(reference)
    crops = crops_of(pipeline, calibrate) if int8 else None
    done = export(pipeline, path, opset=opset, crops=crops, force=force)
    if as_json:
        emit(_document(done, form))
    else:
        _report(done)


def crops_of(pipeline: SwapPipeline, folder: Path | None) -> Tensor:
    """Return aligned faces (N, 3, S, S) to calibrate on.

    Raises:
        DataError: there is no such folder.
        NoFaceError: fewer than two faces were found.
    """
    import torch

    from facke_core.images.files import pictures_in
    from facke_core.images.io import read_image

    pictures = [sample_or_path(sample) for sample in SAMPLES]
    if folder is not None:
        if not folder.is_dir():
            raise DataError(f"--calibrate {folder} is no folder. Give one with photographs.")
        pictures = pictures_in(folder, deep=True)[:MOST]
    aligned = []
    for picture in pictures:
        try:
            photo = read_image(picture).image
        except ImageError as error:
            say(f"facke: warning: left out: {error}")
            continue
        faces = pipeline.detect(photo)
        aligned += [pipeline.align(photo, faces[0]).crop] if faces else []
    if len(aligned) < 2:
        raise NoFaceError(
            f"{folder}: faces were found in {len(aligned)} of {len(pictures)} pictures, but "
            "calibration needs at least 2. Give more photographs."
        )
    if len(aligned) < len(pictures):
        say(f"{len(pictures) - len(aligned)} of {len(pictures)} pictures show no face: left out")
    crops = torch.stack(aligned)
    if folder is None:  # the samples, mirrored, darker, and with less contrast
        crops = torch.cat([crops, crops.flip(3), 0.7 * crops, 0.25 + 0.5 * crops])
    return crops


def _document(done: Exported, form: str) -> dict[str, Any]:
    quality = done.int8
    return {
        "output": str(done.path),
        "format": form,
        "opset": done.opset,
        "bytes": done.bytes,
        "max_error": {str(batch): error for batch, error in done.max_error.items()},
        "int8": None
        if quality is None
        else {
            "pairs": quality.pairs,
            "psnr": round(quality.psnr, 2),
            "max_error": round(quality.max_error, 4),
            "gain": _number(quality.gain),
            "gain_float": _number(quality.gain_float),
            "fault": quality.fault or None,
        },
    }


def _number(value: float) -> float | None:
    return round(value, 4) if value == value else None


def _report(done: Exported) -> None:
    errors = ", ".join(f"{e:.1e} (batch of {b})" for b, e in done.max_error.items())
    write(f"{done.path}: ONNX opset {done.opset}, {done.bytes / 2**20:.1f} MiB")
    write(f"largest error against torch: {errors}")
    if done.int8:
        q = done.int8
        write(
            f"8 bits against float32, {q.pairs} pairs: PSNR {q.psnr:.1f} dB, largest error "
            f"{255 * q.max_error:.1f}/255, identity gain {q.gain:.3f} of {q.gain_float:.3f}"
        )
        if q.fault:
            write(f"kept by --force: {q.fault}")
