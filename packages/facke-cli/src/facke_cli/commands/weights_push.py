"""The command ``facke weights push``."""

from __future__ import annotations

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
    as_json: AsJson = False,
) -> None:
    """Publish a folder of weights on the Hugging Face Hub, in one commit.

    Digests, network and golden tensors are checked first. Log in with `hf auth login`, or set
    HF_TOKEN. HF_ENDPOINT names another Hub; set HF_HUB_DISABLE_XET=1 where it cannot take Xet.
    """
    from facke_core.publish.push import push

    bars_on_terminals()
    done = push(folder, reference, private=private, revision=revision, message=message)
    if as_json:
        emit(
            {
                "repository": done.repo_id,
                "commit": done.commit,
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
    write(f"{len(done.files)} files published at commit {done.commit}")
    write(f"pin it as {done.reference}")
