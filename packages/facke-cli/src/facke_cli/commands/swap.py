"""The command ``facke swap``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from facke_cli.commands.faces import about
from facke_cli.console import count, emit, say, write
from facke_cli.engines import Backend, Name, RayActors, RayAddress, engine
from facke_cli.many import swap_many
from facke_cli.options import AsJson, Device, Force, Quiet, check_apart, settings
from facke_cli.samples import sample_or_path
from facke_cli.watching import check_previews, watching
from facke_core.errors import UsageError
from facke_core.plugins.registry import Registry, default_registry
from facke_core.weights.layout import refuse_foreign
from facke_core.weights.sources import Source, locate

if TYPE_CHECKING:
    from facke_core.backends.choice import Choice, Measured
    from facke_core.faces.choosing import FaceChoice
    from facke_core.pipeline import SwapPipeline
    from facke_core.results import SwapResult

__all__ = ["DEFAULT_METHOD", "find", "swap"]

DEFAULT_METHOD = "simswap"
_TAG = re.compile(r"[\w-][\w.-]*")


def swap(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="OUT", help="The picture to write; with --pairs a folder."
        ),
    ],
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="The picture that gives the identity.")
    ] = None,
    target: Annotated[
        str | None, typer.Argument(metavar="TARGET", help="The picture whose face is replaced.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Many at once: columns source and target."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"The method. [default: {DEFAULT_METHOD}]")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="REF", help="A tag of the method, hf:org/repo[@revision], or ./folder."
        ),
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(
            help="Precision of the generator; auto is float32, or what --backend auto finds."
        ),
    ] = "auto",
    backend: Annotated[
        Backend,
        typer.Option(
            help="What computes the generator; auto measures once and takes the fastest whose "
            "error is at most 2/255."
        ),
    ] = "torch",
    face: Annotated[
        str,
        typer.Option(
            metavar="largest|all|N[,N...]",
            help="Which faces of TARGET; numbers count from the largest, 1, as in facke faces.",
        ),
    ] = "largest",
    source_face: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Which face of SOURCE gives the identity. [default: largest]"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Makes random methods repeatable.")
    ] = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A sampler setting of the method; repeatable."
        ),
    ] = None,
    occlusion: Annotated[
        bool,
        typer.Option(
            "--occlusion/--no-occlusion",
            help="Leave glasses, hair and hands before the face alone.",
        ),
    ] = True,
    grain: Annotated[
        bool,
        typer.Option("--grain/--no-grain", help="Give the face the grain of TARGET's skin."),
    ] = True,
    mask: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Write which share of each pixel was swapped."),
    ] = None,
    crop: Annotated[
        bool,
        typer.Option(
            "--crop", help="SOURCE and TARGET are aligned crops: no detection, no paste-back."
        ),
    ] = False,
    previews: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the face after each step into this new folder, for methods that take "
            "several.",
        ),
    ] = None,
    overwrite: Force = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="With --pairs: go on with what is in OUT.")
    ] = False,
    engine_name: Annotated[
        Name, typer.Option("--engine", help="With --pairs: ray for actors of Ray Data.")
    ] = "local",
    ray_address: RayAddress = None,
    ray_actors: RayActors = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put SOURCE's identity on the face in TARGET.

    SOURCE and TARGET are image files, or sample:collins and sample:hopper. The result says in its
    metadata that it is synthetic; see: facke inspect OUT
    """
    which = _which_face(face)
    wanted = settings(sampler)
    blend = {"occlusion": occlusion, "grain": grain}
    ray = engine(engine_name, ray_address, ray_actors, None, device)
    if pairs is not None:
        _refuse(
            "--pairs",
            {
                "SOURCE": source,
                "--crop": crop,
                "--previews": previews,
                "--mask": mask,
                "--force": overwrite,
                "--dtype": dtype != "auto",
                "--backend": backend != "torch",
            },
        )
        work: dict[str, Any] = {
            "face": which,
            "source_face": source_face,
            "sampler": wanted,
            "blend": blend,
            "seed": seed,
            "device": device,
        }
        located = find(method, weights, default_registry())
        swap_many(located, pairs, output, work, ray, resume=resume, as_json=as_json, quiet=quiet)
        return
    if source is None or target is None:
        raise UsageError("Give SOURCE and TARGET, or --pairs FILE.csv. See: facke swap --help")
    if ray or resume:
        raise UsageError("--engine ray and --resume belong to --pairs.")
    pictures = sample_or_path(source), sample_or_path(target)
    if crop and mask:
        raise UsageError("--mask belongs to photographs: with --crop nothing is pasted.")
    _check_files(pictures, output, mask, overwrite=overwrite)
    if previews:
        check_previews(previews)
    located = find(method, weights, default_registry())

    from facke_core.loading import load

    pipeline = load(
        located,
        device=device,
        dtype=_torch_dtype(dtype),
        backend=backend,
        sampler=wanted,
        blend=blend,
    )
    if pipeline.choice.fresh and not quiet:
        say(_measured(pipeline.choice))
    with watching(quiet=quiet, previews=previews, xmp=_disclosure(located, seed)):
        if crop:
            result = pipeline.swap_files(*pictures, seed=seed)
        else:
            result = pipeline(*pictures, seed=seed, face=which, source_face=source_face)
    result.save(str(output), overwrite=overwrite)
    if mask:
        result.save_mask(str(mask), overwrite=overwrite)
    _report(result, pipeline, located, output, as_json=as_json, quiet=quiet)


def _refuse(option: str, others: Mapping[str, Any]) -> None:
    if given := [name for name, value in others.items() if value]:
        raise UsageError(f"{', '.join(given)} cannot be used with {option}.")


def _disclosure(found: Source, seed: int | None) -> bytes:
    from facke_core.images.provenance import disclosure
    from facke_core.types import SwapRequest

    return disclosure(
        SwapRequest(
            method=found.config.method, weights=found.name, revision=found.revision, seed=seed
        )
    )


def _which_face(text: str) -> FaceChoice:
    if text in ("largest", "all"):
        return cast("FaceChoice", text)
    numbers = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in numbers):
        raise UsageError(
            f"--face {text!r} is not possible. Use largest, all, or a number from 1, or several "
            "with commas between them."
        )
    return int(text) if len(numbers) == 1 else [int(part) for part in numbers]


def _check_files(
    pictures: tuple[Path, Path], output: Path, mask: Path | None, *, overwrite: bool
) -> None:
    """Raise what can be known to fail about files before torch is imported."""
    from facke_core.images.files import check_input, check_output

    check_apart({"OUT": output, "--mask": mask}, pictures)
    check_output(output, overwrite=overwrite)
    if mask:
        check_output(mask, overwrite=overwrite)
    size = None
    for picture in pictures:
        size = check_input(picture)
    check_output(output, overwrite=overwrite, size=size)  # as large as the target, the last


def find(method: str | None, weights: str | None, registry: Registry) -> Source:
    """Locate the weights that ``--method`` and ``--weights`` mean together.

    Raises:
        FackeError: they cannot be located, or are weights of another method.
    """
    if method is not None:
        registry.methods[method]
    chosen = method or DEFAULT_METHOD
    name = chosen
    if weights is not None:
        refuse_foreign(Path(weights))
        # a tag, alone or as reports print it: "mini" or "simswap.mini"
        tag = weights.removeprefix(f"{chosen}.")
        name = f"{chosen}.{tag}" if _TAG.fullmatch(tag) else weights
    located = locate(name, registry=registry)
    if method is not None and located.config.method != method:
        raise UsageError(
            f"{weights} are weights of the method {located.config.method!r}, not of {method!r}. "
            "Leave --method out, or give other weights."
        )
    return located


def _torch_dtype(name: str) -> Any:
    import torch

    return None if name == "auto" else getattr(torch, name)


def _measured(choice: Choice) -> str:
    """Say why ``auto`` took what it took, in one line."""
    error = max((255 * way.max_error for way in choice.measured if _is(way, choice)), default=0.0)
    return (
        f"backend auto: {choice}, {choice.ratio:.1f} times as fast as torch float32, largest error "
        f"{error:.2f}/255; {len(choice.measured)} ways were measured, and the choice is remembered"
    )


def _is(one: Measured, choice: Choice) -> bool:
    return (one.backend, one.dtype) == (choice.backend, choice.dtype)


def _report(
    result: SwapResult,
    pipeline: SwapPipeline,
    found: Source,
    output: Path,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    if as_json:
        emit(
            {
                "output": str(output),
                "method": found.config.method,
                "weights": found.name or None,
                "revision": found.revision or None,
                "device": str(pipeline.device),
                "backend": pipeline.choice.backend,
                "dtype": pipeline.choice.dtype,
                "seed": result.request.seed,
                "faces": [about(face) for face in result.faces],
                "faces_seen": result.faces_seen,
                "source": about(result.source) if result.source else None,
                "seconds": {key: round(value, 4) for key, value in result.seconds.items()},
            }
        )
    elif not quiet:
        some, seen = len(result.faces), result.faces_seen
        faces = f"{some} of {seen} faces" if seen > some else count(some, "face")
        total = result.seconds.get("total", 0.0)
        by = found.name or found.config.method
        write(f"{output}: {faces} swapped by {by} on {pipeline.device} in {total:.1f} s")
