"""The command ``facke swap``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from facke_cli.clips import becomes_clip, swap_clip
from facke_cli.console import say
from facke_cli.engines import Backend, Name, RayActors, RayAddress, engine
from facke_cli.giving import Given, given
from facke_cli.many import swap_many
from facke_cli.options import AsJson, Device, Force, Quiet, check_apart, settings
from facke_cli.telling import measured, report
from facke_cli.watching import check_previews, watching
from facke_core.errors import UsageError
from facke_core.plugins.registry import Registry, default_registry
from facke_core.weights.inventory import best_method
from facke_core.weights.layout import refuse_foreign
from facke_core.weights.sources import Source, locate

if TYPE_CHECKING:
    from facke_core.faces.choosing import FaceChoice

__all__ = ["find", "swap"]

_TAG = re.compile(r"[\w-][\w.-]*")


def swap(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="The picture or clip to write; with --pairs, or where TARGET is one, a folder.",
        ),
    ],
    pictures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]... TARGET",
            help="What gives the identity: a picture, several or a folder of one person, or a "
            "saved face; last the picture, clip or folder in which faces are replaced.",
        ),
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="SOURCE...", help="The same as SOURCE before TARGET."),
    ] = None,
    mapped: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="REF=SOURCE",
            help="Who looks like the person in the picture REF gets the face of SOURCE; "
            "repeatable.",
        ),
    ] = None,
    kept: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="REF",
            help="Who looks like the person in the picture REF stays; repeatable.",
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="Who becomes whom, as facke plan wrote and you edited."),
    ] = None,
    save_face: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Keep SOURCE as one .safetensors file, pictures included."
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Many at once: columns source and target."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="The method. [default: the best installed]")
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
            metavar="largest|all|left|right|N[,N...]",
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
            "several; of a clip a frame every ten seconds.",
        ),
    ] = None,
    start: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="Leave out a clip's beginning.")
    ] = None,
    end: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="Leave out a clip's end.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames per second. [default: each at its own time]")
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="h264, hevc, vp9, av1, ffv1 (lossless) or prores. [default: the clip's own]",
        ),
    ] = None,
    crf: Annotated[
        int | None, typer.Option(help="Constant quality of the codec; lower is better.")
    ] = None,
    audio: Annotated[
        Literal["copy", "none"], typer.Option(help="Keep a clip's sound as it is, or leave it out.")
    ] = "copy",
    overwrite: Force = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="With --pairs, a folder or a clip: go on with what is done."),
    ] = False,
    engine_name: Annotated[
        Name,
        typer.Option("--engine", help="With --pairs, a folder or a clip: ray for actors of Ray."),
    ] = "local",
    ray_address: RayAddress = None,
    ray_actors: RayActors = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put SOURCE's identity on the face in TARGET.

    SOURCE is an image file; TARGET is one, too, or a clip, or a folder of pictures. sample:collins
    and sample:hopper are two of ours. Who of several people gets which face is said by --face, or
    by pictures of them: --map, --keep. The result says in its metadata that it is synthetic; see:
    facke inspect OUT
    """
    which = _which_face(face)
    wanted = settings(sampler)
    blend = {"occlusion": occlusion, "grain": grain}
    ray = engine(engine_name, ray_address, ray_actors, None, device)
    of_one = {
        "--crop": crop,
        "--mask": mask,
        "--force": overwrite,
        "--previews": previews,
        "--dtype": dtype != "auto",
        "--backend": backend != "torch",
    }
    of_clips = {
        "--start": start is not None,
        "--end": end is not None,
        "--fps": fps,
        "--codec": codec,
        "--crf": crf is not None,
        "--audio": audio != "copy",
    }
    work: dict[str, Any] = {
        "face": which,
        "source_face": source_face,
        "sampler": wanted,
        "blend": blend,
        "seed": seed,
        "device": device,
    }
    told = {"as_json": as_json, "quiet": quiet}
    of_people = {"--map": mapped, "--keep": kept, "--plan": plan, "--save-face": save_face}
    if pairs is not None:
        _refuse("--pairs", {"SOURCE": pictures or sources, **of_people, **of_one, **of_clips})
        located = find(method, weights, default_registry())
        swap_many(located, pairs, output, work, ray, resume=resume, **told)
        return
    who, target = given(pictures or [], sources or [], mapped or [], kept or [], plan)
    if save_face:
        _check_saved(who, save_face, overwrite=overwrite)
        check_apart({"OUT": output, "--save-face": save_face}, [*who.files(), target])
    if target.is_dir():
        _refuse("a folder", {**of_people, **of_one, **of_clips})
        if who.single is None:
            raise UsageError("A folder takes one SOURCE: a picture, or a saved face.")
        located = find(method, weights, default_registry())
        work["source"] = str(who.single.resolve())
        swap_many(located, target, output, work, ray, resume=resume, **told)
        return
    if becomes_clip(target, output):
        _refuse("a clip", {"--crop": crop, "--mask": mask, "--save-face": save_face})
        who.check()
        work |= {"backend": backend, "dtype": _torch_dtype(dtype), "source": who.load()}
        located = find(method, weights, default_registry())
        settings_ = {"start": start, "end": end, "fps": fps, "codec": codec, "crf": crf}
        swap_clip(
            located,
            target,
            output,
            work,
            settings_ | {"audio": audio},
            ray,
            resume=resume,
            overwrite=overwrite,
            previews=previews,
            **told,
        )
        return
    _refuse("a picture", of_clips)
    if ray or resume:
        raise UsageError("--engine ray and --resume belong to --pairs, folders and clips.")
    if crop and mask:
        raise UsageError("--mask belongs to photographs: with --crop nothing is pasted.")
    if crop and who.single is None:
        raise UsageError("--crop takes one SOURCE and one TARGET, which are aligned crops.")
    _check_files(who, target, output, mask, overwrite=overwrite)
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
        say(measured(pipeline.choice))
    with watching(quiet=quiet, previews=previews, xmp=_disclosure(located, seed)):
        source = who.load()
        if crop:
            result = pipeline.swap_files(source, target, seed=seed)
        else:
            if save_face:
                source = pipeline.portrait(source, source_face=source_face)
            result = pipeline(source, target, seed=seed, face=which, source_face=source_face)
    result.save(str(output), overwrite=overwrite)
    if mask:
        result.save_mask(str(mask), overwrite=overwrite)
    if save_face:
        source.save(save_face, overwrite=overwrite)
    report(result, pipeline, located, output, as_json=as_json, quiet=quiet)


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
    if text in ("largest", "all", "left", "right"):
        return cast("FaceChoice", text)
    numbers = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in numbers):
        raise UsageError(
            f"--face {text!r} is not possible. Use largest, all, left, right, or a number from 1, "
            "or several with commas between them."
        )
    return int(text) if len(numbers) == 1 else [int(part) for part in numbers]


def _check_files(
    who: Given, target: Path, output: Path, mask: Path | None, *, overwrite: bool
) -> None:
    """Raise what can be known to fail about files before torch is imported."""
    from facke_core.images.files import check_input, check_output

    check_apart({"OUT": output, "--mask": mask}, [*who.files(), target])
    check_output(output, overwrite=overwrite)
    if mask:
        check_output(mask, overwrite=overwrite)
    who.check()
    size = check_input(target)
    check_output(output, overwrite=overwrite, size=size)


def _check_saved(who: Given, file: Path, *, overwrite: bool) -> None:
    if file.suffix.lower() != ".safetensors":
        raise UsageError(f"--save-face {file} is no name for a face. Let it end in .safetensors.")
    if who.people or who.plan:
        raise UsageError("--save-face keeps SOURCE. Leave --map, --keep and --plan out.")
    if file.exists() and not overwrite:
        raise UsageError(f"{file} is there already. Use --force, or choose another name.")


def find(method: str | None, weights: str | None, registry: Registry) -> Source:
    """Locate the weights that ``--method`` and ``--weights`` mean together; without either, those
    of the best method that is installed.

    Raises:
        FackeError: they cannot be located, or are weights of another method.
    """
    if method is not None:
        registry.methods[method]
    chosen = method or best_method(registry=registry)
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
