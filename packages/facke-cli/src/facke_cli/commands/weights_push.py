"""The command ``facke weights push``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from facke_cli.console import bars_on_terminals, emit, say, write
from facke_cli.options import AsJson

__all__ = ["weights_push"]


def weights_push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of weights, or a run.")],
    reference: Annotated[str, typer.Argument(metavar="hf:ORG/NAME", help="Where to.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="A branch; made if it does not exist.")
    ] = None,
    message: Annotated[str, typer.Option(metavar="TEXT", help="Of the commit.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and list what would go up; send nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a folder of weights on the Hugging Face Hub, in one commit.

    Digests, network and golden tensors are checked first, and what goes up is listed: files of the
    layout, no links, nothing that names a place on your machine. Log in with `hf auth login`, or
    set HF_TOKEN. HF_ENDPOINT names another Hub; set HF_HUB_DISABLE_XET=1 where it cannot take Xet.
    """
    from facke_core.publish.push import push

    def listed(files: Mapping[str, int]) -> None:
        say(f"{len(files)} files {'would go' if dry_run else 'go'} to {reference}:")
        for name, size in files.items():
            say(f"  {size:>12,} bytes  {name}")

    bars_on_terminals()
    done = push(
        folder,
        reference,
        private=private,
        revision=revision,
        message=message,
        dry_run=dry_run,
        on_files=listed,
    )
    if as_json:
        emit(
            {
                "repository": done.repo_id,
                "commit": done.commit or None,
                "reference": done.reference,
                "files": list(done.files),
                "left_out": list(done.left_out),
                "notes": list(done.notes),
            }
        )
        return
    for note in done.notes:
        say(note)
    if done.left_out:
        say(f"Left out, the state of the training: {', '.join(done.left_out)}")
    if dry_run:
        write(f"{len(done.files)} files are ready; nothing was sent")
        return
    write(f"{len(done.files)} files published at commit {done.commit}")
    write(f"pin it as {done.reference}")
