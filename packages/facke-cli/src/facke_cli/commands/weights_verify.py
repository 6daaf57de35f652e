"""The command ``facke weights verify``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from facke_cli.console import bars_on_terminals, emit, table, write
from facke_cli.options import AsJson
from facke_core.errors import FackeError, VerificationError, WeightsError
from facke_core.weights import hub
from facke_core.weights.sources import Source, locate

__all__ = ["weights_verify"]


def weights_verify(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="REF...", help="A method, METHOD.TAG, hf:org/repo[@revision] or ./folder."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Check weights: configuration, digests, the tensors against the network, golden tensors.

    Golden tensors are seeded inputs and what the weights made of them when they were saved; they
    are computed again. Exits with 3 if anything differs.
    """
    bars_on_terminals()
    rows, failures = [], []
    for reference in references:
        try:
            rows.append(_verified(reference))
        except FackeError as error:
            failures.append(error)
            rows.append({"weights": reference, "ok": False, "error": str(error)})
    if as_json:
        emit(rows)
    else:
        head = ("weights", "method", "digests", "tensors", "golden: max error (allowed)")
        write(table(head, [_line(row) for row in rows]), lines=True)
    if failures:
        raise _summary(failures, len(references))


def _verified(reference: str) -> dict[str, Any]:
    source = _complete(reference)
    if source.folder is None:
        raise WeightsError(f"{reference} has no weights, so there is nothing to check.")

    from facke_core.publish.golden import verify

    checked = verify(source.folder, source.config)
    golden = None
    if checked.replay:
        golden = {
            "max_error": checked.replay.max_error,
            "tolerance": checked.replay.tolerance,
            "made_with": checked.replay.made_with,
        }
    return {
        "weights": reference,
        "revision": source.revision,
        "method": source.config.method,
        "ok": True,
        "error": None,
        "files": checked.files,
        "tensors": checked.tensors,
        "parameters": checked.parameters,
        "golden": golden,
    }


def _complete(reference: str) -> Source:
    """Locate the weights, and fetch all their files where they come from the Hub."""
    source = locate(reference)
    if isinstance(source.origin, hub.HubLocation):
        hub.pull(source.origin)
    return source


def _line(row: dict[str, Any]) -> Sequence[object]:
    if not row["ok"]:
        return (row["weights"], "", "", "", f"FAILED: {row['error']}")
    golden = row["golden"]
    replayed = f"{golden['max_error']:.2g} ({golden['tolerance']:g})" if golden else "none there"
    return (row["weights"], row["method"], f"{len(row['files'])} right", row["tensors"], replayed)


def _summary(failures: list[FackeError], total: int) -> FackeError:
    """Make one error of all: a failed verification counts more than what could not be looked at."""
    failures.sort(key=lambda failure: isinstance(failure, VerificationError), reverse=True)
    if total == 1:
        return failures[0]
    return type(failures[0])(f"{len(failures)} of {total} weights failed; see above.")
