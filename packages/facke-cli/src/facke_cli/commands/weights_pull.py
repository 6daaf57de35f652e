"""The command ``facke weights pull``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facke_cli.console import bars_on_terminals, emit, write
from facke_cli.options import AsJson
from facke_core.errors import UsageError
from facke_core.weights import hub, licenses
from facke_core.weights.sources import hub_location

__all__ = ["weights_pull"]


def weights_pull(
    reference: Annotated[
        str, typer.Argument(metavar="REF", help="hf:org/repo[@revision], or weights of a method.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Copy them to this new folder."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="REV", help="Branch, tag or commit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch weights from the Hub into its cache, whole and at one commit, and check their digests.

    A download that breaks off is taken up again. With HF_HUB_OFFLINE=1 the cache alone is used.
    HF_ENDPOINT names another Hub, HF_HOME another cache.
    """
    location = hub_location(reference, revision=revision)
    if location is None:
        raise UsageError(
            f"{reference} is not on the Hub. Write hf:org/repo; weights that come with a method "
            "are installed already, see: facke weights list"
        )
    if output:
        hub.check_new(output)
    bars_on_terminals()
    fetched, config = hub.pull(location)
    if output:
        hub.copy_layout(fetched.folder, config, output)
    pinned = f"{hub.PREFIX}{location.repo_id}@{fetched.commit}"
    folder = output or fetched.folder
    kind = licenses.classify(config.license)
    if as_json:
        emit(
            {
                "reference": pinned,
                "commit": fetched.commit,
                "method": config.method,
                "folder": str(folder),
                "files": {name: info.sha256 for name, info in config.files.items()},
                "license": config.license or None,
                "license_class": kind,
            }
        )
        return
    write(f"{pinned}: {config.method}, {len(config.files)} files with the right digests")
    write(f"licence {config.license or 'not stated'} ({kind})")
    write(f"in {folder}")
