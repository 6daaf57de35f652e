"""``facke evaluate``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from facke_cli.comparing import compare
from facke_cli.console import STDOUT, Show, emit, progress, say, write
from facke_cli.engines import Backend, Name, RayActors, RayAddress, engine
from facke_cli.tables import facke2022_text, reports_text, scan_text
from facke_core.config import override
from facke_core.errors import UsageError
from facke_core.plugins.registry import Registry, default_registry
from facke_core.weights.sources import locate

if TYPE_CHECKING:
    from facke_core.evaluation.runner import EvaluationSpec

__all__ = ["Options", "evaluate", "run"]

Names = Callable[[], Registry]
DIFF = "diff"


def evaluate(
    weights: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WEIGHTS...",
            help="Methods, METHOD.TAG, hf:org/repo or ./folder. Or: diff A.json B.json",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Photographs: columns source and target, and optionally source_identity and "
            "target_identity.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATASET", help="Of facke prepare; its test part, if it has one."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="The first pairs of the CSV; how many are drawn from DATASET. [1000]"
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A recogniser that did not train the model: a name, hf:org/repo@COMMIT, or JSON "
            "with name and settings.",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of the ID loss, for models that were trained without one."
        ),
    ] = None,
    allow_training_encoder: Annotated[
        bool,
        typer.Option(
            "--allow-training-encoder", help="Let the encoder that trained the model judge it."
        ),
    ] = False,
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B", help="Some metrics only; see facke plugins.")
    ] = None,
    protocol: Annotated[
        Literal["default", "facke2022"],
        typer.Option(help="facke2022: the arithmetic of Facke's benchmark."),
    ] = "default",
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Of methods and pairs that are drawn.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A sampler setting of the methods; repeatable."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    backend: Annotated[
        Backend,
        typer.Option(help="What computes the generator, as for facke swap. The report names it."),
    ] = "torch",
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in work at a time.")] = 8,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads. [default: one per core]")
    ] = None,
    engine_name: Annotated[
        Name, typer.Option("--engine", help="ray: by actors of Ray Data.")
    ] = "local",
    ray_address: RayAddress = None,
    ray_actors: RayActors = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the values of each pair here while it runs."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Real pairs, columns a, b and same: how well the encoders tell people apart.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with the table and pictures."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write everything here; - is the output."),
    ] = None,
    scan: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Choose among the checkpoints of a run, as the paper."),
    ] = None,
    coarse: Annotated[
        int, typer.Option(min=1, help="With --scan: pairs for every checkpoint.")
    ] = 400,
    fine: Annotated[
        int | None, typer.Option(min=1, help="With --scan: pairs for the winners. [default: all]")
    ] = None,
    skip: Annotated[
        int,
        typer.Option(min=1, help="With --scan: every n-th checkpoint from the end, and the first."),
    ] = 1,
    tolerance: Annotated[
        float, typer.Option(min=0, help="With diff: what numbers may differ by.")
    ] = 1e-6,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Measure weights on pairs of pictures, or compare two reports.

    Values are means over the pairs, with the 95 % interval of a bootstrap over people. They do not
    depend on --batch-size and --workers.
    """
    words = weights or []
    if words[:1] == [DIFF]:
        compare(words[1:], tolerance, json_file, quiet=quiet)
        return
    options = Options(
        weights=words,
        pairs=pairs,
        data=data,
        limit=limit,
        judge=judge,
        encoder=encoder,
        allow_training_encoder=allow_training_encoder,
        metrics=tuple(name.strip() for name in (metrics or "").split(",") if name.strip()),
        protocol=protocol,
        seed=seed,
        sampler=override({}, *(assignments or ()), schema=Mapping, where="sampler"),
        device=device,
        backend=backend,
        batch_size=batch_size,
        workers=workers,
        engine=engine_name,
        ray_address=ray_address,
        ray_actors=ray_actors,
        out=out,
        resume=resume,
        calibrate=calibrate,
        html=html,
        json_file=json_file,
        scan=scan,
        coarse=coarse,
        fine=fine,
        skip=skip,
        quiet=quiet,
    )
    run(options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What ``facke evaluate`` was asked for; see its help."""

    weights: Sequence[str]
    pairs: Path | None = None
    data: Path | None = None
    limit: int | None = None
    judge: str | None = None
    encoder: str | None = None
    allow_training_encoder: bool = False
    metrics: tuple[str, ...] = ()
    protocol: Literal["default", "facke2022"] = "default"
    seed: int | None = None
    sampler: Mapping[str, Any]
    device: str = "auto"
    backend: Backend = "torch"
    batch_size: int = 8
    workers: int | None = None
    engine: Name = "local"
    ray_address: str | None = None
    ray_actors: int | None = None
    out: Path | None = None
    resume: bool = False
    calibrate: Path | None = None
    html: Path | None = None
    json_file: Path | None = None
    scan: Path | None = None
    coarse: int = 400
    fine: int | None = None
    skip: int = 1
    quiet: bool = False


def run(options: Options, registry: Names = default_registry) -> None:
    """``facke evaluate``, with the names of another registry than the default one."""
    _check(options, registry())
    specs = _specs(options)
    shown = nullcontext() if options.quiet else progress()
    if options.scan is not None:
        with shown as on_progress:
            _scan(options, specs[0], registry, on_progress)
    elif options.protocol == "facke2022":
        with shown as on_progress:
            _facke2022(options, specs, registry, on_progress)
    else:
        with shown as on_progress:
            _evaluate(options, specs, registry, on_progress)


def _check(options: Options, registry: Registry) -> None:
    """Everything that can be known to fail before torch is imported."""
    if options.scan is None and not options.weights:
        raise UsageError("Name at least one set of WEIGHTS. See: facke methods")
    if options.scan is not None and options.weights:
        raise UsageError("--scan names the weights itself: leave WEIGHTS out.")
    if options.scan is not None and options.judge is None:
        raise UsageError("--scan chooses by ID Retrieval and needs --judge NAME.")
    if (options.pairs is None) == (options.data is None):
        raise UsageError("Give either --pairs FILE.csv or --data DATASET.")
    _check_alone(options)
    if options.backend != "torch" and (options.scan is not None or options.engine == "ray"):
        raise UsageError(
            "--scan and --engine ray work with --backend torch only, the one whose results do not "
            "depend on how many cores there are."
        )
    if options.resume and options.out is None:
        raise UsageError("--resume goes on with the rows in --out DIR. Name it.")
    for name in options.metrics:
        registry.metric(name)
    for file in (options.html, options.json_file):
        if file is not None and str(file) != STDOUT:
            _check_output(file)
    for name in options.weights:
        locate(name, registry=registry)


def _check_alone(options: Options) -> None:
    """Refuse what would have no effect, rather than leave it out silently."""
    if options.scan is None and options.protocol == "default":
        return
    others = {
        "--engine ray": options.engine == "ray" or options.ray_address or options.ray_actors,
        "--out": options.out,
        "--html": options.html,
        "--calibrate": options.calibrate,
        "--metrics": options.metrics,
    }
    if given := [name for name, value in others.items() if value]:
        what = "--scan" if options.scan is not None else "--protocol facke2022"
        raise UsageError(f"{', '.join(given)} cannot be used with {what}. Leave it out.")


def _check_output(file: Path) -> None:
    folder = file.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{file} cannot be written: there is no folder {file.parent}.")
    if file.is_dir():
        raise UsageError(f"{file} is a folder. Name a file in it.")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{file} cannot be written: {folder} lets you write nothing into it.")


def _specs(options: Options) -> list[EvaluationSpec]:
    from facke_core.evaluation.judges import parse_encoder
    from facke_core.evaluation.runner import EvaluationSpec

    judge, encoder = options.judge, options.encoder
    common = EvaluationSpec(
        weights="",
        pairs=None if options.pairs is None else str(options.pairs),
        data=None if options.data is None else str(options.data),
        limit=options.limit,
        allow_training_encoder=options.allow_training_encoder,
        metrics=options.metrics,
        sampler=options.sampler,
        seed=options.seed,
        device=options.device,
        backend=options.backend,
        judge=None if judge is None else parse_encoder(judge, "--judge"),
        encoder=None if encoder is None else parse_encoder(encoder, "--encoder"),
    )
    return [replace(common, weights=name) for name in options.weights] or [common]


def _evaluate(
    options: Options, specs: Sequence[EvaluationSpec], registry: Names, show: Show | None
) -> None:
    from facke_core.evaluation.report import document
    from facke_core.evaluation.study import evaluate as measure

    reports = measure(
        specs,
        batch_size=options.batch_size,
        workers=options.workers,
        engine=engine(
            options.engine,
            options.ray_address,
            options.ray_actors,
            options.workers,
            options.device,
        ),
        out=options.out,
        resume=options.resume,
        calibration=options.calibrate,
        html=options.html,
        registry=registry,
        on_progress=show,
    )
    _output(options, document(reports), lambda: reports_text(reports))


def _facke2022(
    options: Options, specs: Sequence[EvaluationSpec], registry: Names, show: Show | None
) -> None:
    from facke_core.evaluation.study import evaluate_facke2022

    reports = evaluate_facke2022(
        specs, workers=options.workers, registry=registry, on_progress=show
    )

    content = {"facke2022": [one.to_json() for one in reports]}
    _output(options, content, lambda: facke2022_text(reports))


def _scan(options: Options, spec: EvaluationSpec, registry: Names, show: Show | None) -> None:
    from facke_core.evaluation.study import scan_run

    assert options.scan is not None
    found = scan_run(
        options.scan,
        spec,
        coarse=options.coarse,
        fine=options.fine,
        skip=options.skip,
        batch_size=options.batch_size,
        workers=options.workers,
        registry=registry,
        on_progress=show,
    )
    _output(options, {"scan": found.to_json()}, lambda: scan_text(found))


def _output(options: Options, content: Mapping[str, Any], text: Callable[[], str]) -> None:
    from facke_core.config import write_json

    to_stdout = options.json_file is not None and str(options.json_file) == STDOUT
    if options.json_file is not None:
        if to_stdout:
            emit(content)
        else:
            write_json(options.json_file, content)
    if not options.quiet and not to_stdout:
        write(text())
    if options.html is not None and not options.quiet:
        say(f"Page: {options.html}")
