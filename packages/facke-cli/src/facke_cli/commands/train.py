"""``facke train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facke_cli.console import emit, say, write


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's name, or a JSON file.")
    ],
    data: Annotated[Path, typer.Option("--data", help="The dataset.")],
    out: Annotated[Path, typer.Option("--out", help="The folder of the run.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the run's last checkpoint.")
    ] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Short for --set steps=N.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train a recipe on a dataset.

    The folder OUT is at any time a folder of weights: facke swap --weights ./OUT.
    """
    from facke_core.training.run import train as run_training

    overrides = [*(assignments or ()), *([f"steps={steps}"] if steps else ())]
    summary = run_training(
        recipe,
        data,
        out,
        resume=resume,
        overrides=overrides,
        device=device,
        say=None if quiet else say,
    )
    if as_json:
        emit(
            {
                "out": str(summary.out),
                "step": summary.step,
                "steps": summary.steps,
                "images": summary.images,
                "seconds": round(summary.seconds, 3),
                "finished": summary.finished,
            }
        )
    elif not quiet:
        state = "done" if summary.finished else "stopped, continue with --resume"
        write(f"{summary.out}: step {summary.step} of {summary.steps}, {state}")
    if not summary.finished:
        raise typer.Exit(130)
