"""The command ``facke evaluate run``, which is also meant by ``facke evaluate WEIGHTS...``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from facke_cli.console import progress, say
from facke_cli.engines import Backend, Name, RayActors, RayAddress, engine
from facke_cli.measuring import MeasuringOptions, Names, check_output, report
from facke_cli.options import JsonFile, Quiet, check_apart, command, settings
from facke_cli.tables import facke2022_text, reports_text
from facke_core.errors import UsageError
from facke_core.plugins.registry import Registry, default_registry
from facke_core.types import Progress
from facke_core.weights.sources import Source, hub_location, locate

if TYPE_CHECKING:
    from facke_core.evaluation.runner import EvaluationSpec

__all__ = ["RunOptions", "evaluate_run", "run"]

TERMS = {"calibration": "calibrate", "sampler": "assignments"}
PROTOCOL_2022 = "facke2022"
Measured = tuple[Mapping[str, Any], str]
"""What ``--json`` gets, and the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(MeasuringOptions):
    """They say which weights are measured, in what way, and where the results go."""

    weights: Annotated[
        list[str] | None,
        typer.Argument(metavar="WEIGHTS...", help="Methods, METHOD.TAG, hf:org/repo or ./folder."),
    ] = None
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of the ID loss, for models that were trained without one."
        ),
    ] = None
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B", help="Some metrics only; see facke plugins.")
    ] = None
    protocol: Annotated[
        Literal["default", "facke2022"],
        typer.Option(help="facke2022: the arithmetic of Facke's benchmark."),
    ] = "default"
    backend: Annotated[
        Backend,
        typer.Option(help="What computes the generator, as for facke swap. The report names it."),
    ] = "torch"
    engine: Annotated[Name, typer.Option(help="ray: by actors of Ray Data.")] = "local"
    ray_address: RayAddress = None
    ray_actors: RayActors = None
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the values of each pair here while it runs."),
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Real pairs, columns a, b and same: how well the encoders tell people apart.",
        ),
    ] = None
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with the table and pictures."),
    ] = None
    json_file: JsonFile = None
    quiet: Quiet = False

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Return the metrics that are asked for by name; none means all."""
        return tuple(name.strip() for name in (self.metrics or "").split(",") if name.strip())

    def check(self, registry: Registry) -> list[Source]:
        """Locate the weights; raise what can be known to fail before torch is imported.

        Raises:
            UsageError: options that lack something, or have no effect together.
            FackeError: weights, a metric or a file that cannot be had.
        """
        settings(self.assignments)
        if not self.weights:
            raise UsageError("Name at least one set of WEIGHTS. See: facke methods")
        for name in self.weights:
            hub_location(name, registry=registry)  # raises for a wrong name, and fetches nothing
        self.check_pairs()
        self._check_protocol()
        if self.backend != "torch" and self.engine == "ray":
            raise UsageError(
                "--engine ray works with --backend torch only, the one whose results do not "
                "depend on how many cores there are."
            )
        if self.resume and self.out is None:
            raise UsageError("--resume goes on with the rows in --out DIR. Name it.")
        for name in self.metric_names:
            registry.metrics[name]
        for file in (self.html, self.json_file):
            check_output(file)
        check_apart({"--html": self.html, "--json": self.json_file}, [self.pairs, self.calibrate])
        return [locate(name, registry=registry) for name in self.weights]

    def _check_protocol(self) -> None:
        """Refuse what would have no effect, rather than leave it out silently."""
        others = {
            "--engine ray": self.engine == "ray" or self.ray_address or self.ray_actors,
            "--out": self.out,
            "--html": self.html,
            "--calibrate": self.calibrate,
            "--metrics": self.metric_names,
        }
        given = [name for name, value in others.items() if value]
        if self.protocol == PROTOCOL_2022 and given:
            raise UsageError(
                f"{', '.join(given)} cannot be used with --protocol {PROTOCOL_2022}. Leave it out."
            )

    def specs(self, sources: Sequence[Source]) -> list[EvaluationSpec]:
        """Return what decides the values, for each set of weights.

        Raises:
            FackeError: the judge, the encoder or a setting of the sampler cannot be read.
        """
        from facke_core.evaluation.judges import parse_encoder

        encoder = None if self.encoder is None else parse_encoder(self.encoder, "--encoder")
        common = replace(
            self.spec(), encoder=encoder, metrics=self.metric_names, backend=self.backend
        )
        return [replace(common, weights=source) for source in sources]


@command(RunOptions)
def evaluate_run(options: RunOptions) -> None:
    """Measure weights on pairs of pictures.

    Values are means over the pairs, with the 95 % interval of a bootstrap over people. They do not
    depend on --batch-size and --workers.
    """
    run(options)


def run(options: RunOptions, registry: Names = default_registry) -> None:
    """Do what ``facke evaluate run`` does, with names from any registry."""
    sources = options.check(registry())
    measure = _facke2022 if options.protocol == PROTOCOL_2022 else _evaluate
    measured: list[Measured] = []
    try:
        with nullcontext() if options.quiet else progress() as show:
            measure(options, sources, registry, show, measured.append)
    finally:  # a page that cannot be written takes nothing else with it
        for content, text in measured:
            report(content, text, options.json_file, quiet=options.quiet)
    if options.html is not None and not options.quiet:
        say(f"Page: {options.html}")


def _evaluate(
    options: RunOptions,
    sources: Sequence[Source],
    registry: Names,
    show: Progress | None,
    done: Callable[[Measured], None],
) -> None:
    from facke_core.evaluation.report import document
    from facke_core.evaluation.study import evaluate

    evaluate(
        options.specs(sources),
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
        on_reports=lambda reports: done((document(reports), reports_text(reports))),
    )


def _facke2022(
    options: RunOptions,
    sources: Sequence[Source],
    registry: Names,
    show: Progress | None,
    done: Callable[[Measured], None],
) -> None:
    from facke_core.evaluation.study import evaluate_facke2022

    reports = evaluate_facke2022(
        options.specs(sources), workers=options.workers, registry=registry, on_progress=show
    )
    done(({"facke2022": [each.to_json() for each in reports]}, facke2022_text(reports)))
