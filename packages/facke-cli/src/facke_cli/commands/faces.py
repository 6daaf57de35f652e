"""``facke faces``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facke_cli.console import count, emit, table, write
from facke_cli.options import AsJson, Force, check_apart
from facke_cli.samples import sample_or_path

if TYPE_CHECKING:
    from facke_core import Face

__all__ = ["about", "faces"]


def faces(
    photo: Annotated[str, typer.Argument(metavar="PHOTO", help="A picture.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Draw the faces and their numbers into this file.",
        ),
    ] = None,
    overwrite: Force = False,
    as_json: AsJson = False,
) -> None:
    """List the faces of PHOTO with their numbers, largest first.

    The numbers are those of facke swap --face and --source-face. An angle says how far the head is
    turned with the clock: 180 stands on its head.
    """
    from facke_core.images.files import check_input, check_output

    path = sample_or_path(photo)
    if output is not None:
        check_apart({"OUT": output}, [path])
        check_output(output, overwrite=overwrite)
    check_input(path)
    from facke_core.building import LazyDetector
    from facke_core.faces.doubts import looked_over
    from facke_core.images.io import read_image
    from facke_core.plugins.registry import default_registry

    picture = read_image(path).image
    detector = LazyDetector(default_registry())
    detected = [looked_over(face, picture) for face in detector.all_faces(picture)]
    if output is not None:
        from facke_core.faces.drawing import numbered_faces
        from facke_core.images.io import write_image

        write_image(str(output), numbered_faces(picture, detected), overwrite=overwrite)
    if as_json:
        listed = [{"number": number, **about(face)} for number, face in enumerate(detected, 1)]
        emit({"photo": str(path), "output": str(output) if output else None, "faces": listed})
        return
    height, width = picture.shape[1:]
    write(f"{photo}: {count(len(detected), 'face')} in {width} x {height} pixels")
    if detected:
        head = ("number", "size", "at", "angle", "score", "doubts")
        write(
            table(head, [_row(number, face) for number, face in enumerate(detected, 1)]), lines=True
        )
    if output is not None:
        write(f"drawn into {output}")


def about(face: Face) -> dict[str, Any]:
    """Return what ``--json`` says of a face."""
    return {
        "box": face.box.tolist(),
        "landmarks": face.landmarks.tolist(),
        "angle": round(face.angle, 1),
        "score": round(face.score, 3),
        "doubts": list(face.doubts),
    }


def _row(number: int, face: Face) -> tuple[object, ...]:
    x0, y0, x1, y1 = (round(edge) for edge in face.box.tolist())
    place, angle = f"{x0}, {y0}", f"{face.angle:.0f}"
    return (
        number,
        f"{x1 - x0} x {y1 - y0}",
        place,
        angle,
        f"{face.score:.2f}",
        "; ".join(face.doubts),
    )
