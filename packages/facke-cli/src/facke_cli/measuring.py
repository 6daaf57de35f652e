"""``facke evaluate run`` and ``facke evaluate scan`` have this in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facke_cli.console import STDOUT, put, write
from facke_cli.options import Device, settings
from facke_core.errors import UsageError
from facke_core.plugins.registry import Registry

if TYPE_CHECKING:
    from facke_core.evaluation.runner import EvaluationSpec

__all__ = ["MeasuringOptions", "Names", "check_output", "report"]

Names = Callable[[], Registry]
"""It returns where names are looked up; other processes call it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringOptions:
    """They say on which pairs, by whose judgement and with what machine something is measured."""

    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Photographs: columns source and target, and optionally source_identity and "
            "target_identity.",
        ),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATASET", help="Of facke prepare; its test part, if it has one."),
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="The first pairs of the CSV; how many are drawn from DATASET. [1000]"
        ),
    ] = None
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A recogniser that did not train the model: a name, hf:org/repo@COMMIT, or JSON "
            "with name and settings.",
        ),
    ] = None
    allow_training_encoder: Annotated[
        bool,
        typer.Option(
            "--allow-training-encoder", help="Let the encoder that trained the model judge it."
        ),
    ] = False
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Of methods and pairs that are drawn.")
    ] = None
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A sampler setting of the methods; repeatable."
        ),
    ] = None
    device: Device = "auto"
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in work at a time.")] = 8
    workers: Annotated[int | None, typer.Option(min=1, help="Threads. [default: one per core]")] = (
        None
    )

    def check_pairs(self) -> None:
        """Raise UsageError unless the pairs come from one place."""
        if (self.pairs is None) == (self.data is None):
            raise UsageError("Give either --pairs FILE.csv or --data DATASET.")

    def spec(self) -> EvaluationSpec:
        """Return what decides the values, for weights that are still to be named.

        Raises:
            FackeError: the judge or a setting of the sampler cannot be read.
        """
        from facke_core.evaluation.judges import parse_encoder
        from facke_core.evaluation.runner import EvaluationSpec

        return EvaluationSpec(
            weights="",
            pairs=None if self.pairs is None else str(self.pairs),
            data=None if self.data is None else str(self.data),
            limit=self.limit,
            judge=None if self.judge is None else parse_encoder(self.judge, "--judge"),
            allow_training_encoder=self.allow_training_encoder,
            sampler=settings(self.assignments),
            seed=self.seed,
            device=self.device,
        )


def check_output(file: Path | None) -> None:
    """Raise UsageError where ``file`` can be told not to be writable, before anything is made."""
    if file is None or str(file) == STDOUT:
        return
    folder = file.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{file} cannot be written: there is no folder {file.parent}.")
    if file.is_dir():
        raise UsageError(f"{file} is a folder. Name a file in it.")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{file} cannot be written: {folder} lets you write nothing into it.")


def report(content: Mapping[str, Any], text: str, json_file: Path | None, *, quiet: bool) -> None:
    """Write ``content`` where ``--json`` wants it, and print ``text`` unless that is the output."""
    try:
        if not quiet and str(json_file) != STDOUT:
            write(text, lines=True)  # first, and neither is lost with the other
    finally:
        if json_file is not None:
            put(content, json_file)
