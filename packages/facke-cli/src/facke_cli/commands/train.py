"""The command ``facke train``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facke_cli.console import emit, plain, say, write
from facke_cli.options import AsJson, Device

if TYPE_CHECKING:
    from facke_core.objective import StepReport
    from facke_core.training.probe import ProbeReport
    from facke_core.training.recipe import Recipe

__all__ = ["train"]


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's name, or a JSON file.")
    ],
    data: Annotated[Path, typer.Option("--data", help="The dataset, made by facke prepare.")],
    out: Annotated[Path, typer.Option("--out", help="The folder of the run.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the run's last checkpoint.")
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(metavar="REF", help="Begin with these weights, not with random ones."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Short for --set steps=N.")
    ] = None,
    device: Device = "auto",
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that read batches ahead; 0: none.")
    ] = 0,
    without: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Leave out the people whom a file names, one a line."),
    ] = None,
    panel: Annotated[
        Path | None,
        typer.Option(help="Another dataset, whose faces are swapped for the probe and previews."),
    ] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train a recipe on a dataset.

    After each save the folder OUT can be used as weights: facke swap --weights ./OUT.
    """
    from facke_core.training.run import train as run_training
    from facke_core.training.setup import TrainSettings

    settings = TrainSettings(
        recipe=recipe,
        data=data,
        out=out,
        resume=resume,
        init=init,
        overrides=[*(overrides or ()), *([f"steps={steps}"] if steps else ())],
        device=device,
        workers=workers,
        without=without,
        panel=panel,
    )
    with _progress(quiet) as (on_step, on_probe):
        summary = run_training(settings, on_step=on_step, on_probe=on_probe)
    if as_json:
        emit(
            {
                "out": str(summary.out),
                "step": summary.step,
                "steps": summary.steps,
                "images": summary.images,
                "seconds": round(summary.seconds, 3),
                "finished": summary.finished,
                "best": dict(summary.best),
            }
        )
    elif not quiet:
        state = "done" if summary.finished else "stopped, continue with --resume"
        write(f"{summary.out}: step {summary.step} of {summary.steps}, {state}")
        if summary.best:
            write(
                f"best: {summary.out / summary.best['checkpoint']} "
                f"(retrieval + reconstruction {summary.best['score']:.3f})"
            )
    if not summary.finished:
        raise typer.Exit(128 + summary.stopped_by)


OnStep = Callable[["StepReport", "Recipe"], None]
OnProbe = Callable[["ProbeReport"], None]


@contextmanager
def _progress(quiet: bool) -> Iterator[tuple[OnStep | None, OnProbe | None]]:
    """Show a bar on a terminal, a line every ``log_every`` steps elsewhere."""
    if quiet:
        yield None, None
        return
    if not sys.stderr.isatty():
        yield _line, lambda report: say(_probe(report))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    losses = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), Remaining(), losses)
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("")

        def show(report: StepReport, recipe: Recipe) -> None:
            bar.update(task, completed=report.step, total=recipe.steps, description=_losses(report))

        yield show, lambda report: bar.console.print(_probe(report), markup=False)


def _line(report: StepReport, recipe: Recipe) -> None:
    if report.step % recipe.log_every == 0 or report.step == recipe.steps:
        say(f"step {report.step}/{recipe.steps}  {_losses(report)}")


def _losses(report: StepReport) -> str:
    terms = "  ".join(f"{name.split('.')[-1]} {value:.3f}" for name, value in report.losses.items())
    return plain(f"{report.images_per_second:.1f} images/s  {terms}")


def _probe(report: ProbeReport) -> str:
    return (
        f"probe at step {report.step}: identity gained from the source {report.gained:.3f}, left "
        f"from the target {report.left:.3f}, top-1 {report.top1:.0%}, reconstruction "
        f"{report.reconstruction:.3f}"
    )
