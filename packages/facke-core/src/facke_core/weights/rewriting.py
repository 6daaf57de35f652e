"""Weights that take the place of others: a folder is replaced as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from facke_core._files import HIDDEN, new_folder
from facke_core.errors import FackeError
from facke_core.weights import layout
from facke_core.weights.hub import in_layout
from facke_core.weights.layout import CONFIG, EVALUATION

__all__: list[str] = []


@contextmanager
def rewriting(folder: Path) -> Iterator[Path]:
    """Give a folder to write weights into; it takes the place of ``folder`` at the end.

    What else lies in ``folder`` is in it, and so are the logs of weights that lie there already;
    of these, what the new ``config.json`` does not name goes. Readers find the old weights or the
    new ones, whenever they look and whenever this process is killed.

    Raises:
        OSError: it cannot be written, or ``folder`` cannot be replaced.
    """
    with new_folder(folder, replace=True, last=CONFIG) as made:
        logs = _take_over(Path(os.path.realpath(folder)), made)
        yield made
        kept: set[str] = set()
        with suppress(FackeError):  # an encoder has no config.json
            kept = set(layout.logs_of(layout.read_weights_config(made)))
        for name in logs - kept:
            (made / name).unlink(missing_ok=True)


def _take_over(old: Path, made: Path) -> set[str]:
    """Take over all but the old weights; return the names of their logs."""
    gone: set[str] = set()
    logs: set[str] = set()
    if not old.is_dir():
        return logs
    if in_layout(old):
        gone = {CONFIG, EVALUATION}
        with suppress(FackeError):  # it lists nothing that could be trusted
            config = layout.read_weights_config(old)
            gone |= set(config.files)
            logs = set(layout.logs_of(config))

    def left(folder: str, inside: list[str]) -> set[str]:
        place = Path(folder).relative_to(old)
        return {n for n in inside if n.startswith(HIDDEN) or (place / n).as_posix() in gone}

    shutil.copytree(old, made, symlinks=True, ignore=left, copy_function=_link, dirs_exist_ok=True)
    return logs


def _link(file: str, to: str) -> None:
    """Give a file another name, or copy it."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copy2(file, to)
