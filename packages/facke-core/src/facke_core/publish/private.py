"""What does not go up: links, places on this machine, and names of other people's pictures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from facke_core import _tensors
from facke_core.config import json_text, read_json
from facke_core.errors import WeightsError
from facke_core.weights import layout

__all__: list[str] = []

_HOME = re.compile(
    r"(?<![\w.%-])/(?:(?:var/|export/)?home|Users|root|mnt/[a-z]/Users)/[^\s/\"'<>]+"
    r"|[A-Za-z]:[\\/]+(?:Users|Documents and Settings)[\\/]+[^\s\\/\"'<>]+"
)
"""A folder in which somebody's files lie, and whose name tells who that is."""
_PLACE = re.compile(r"(?:^|[\s\"'`=(,;:])(/[\w.-]+/\S+)|\bfile:/")
"""An absolute path in a sentence."""
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\[^\\\s]+\\")
_LARGEST = 64 * 2**20
"""Bytes of a text file beside weights, above which it is none."""


def check_links(folder: Path) -> None:
    """Refuse links in a folder that is published: they lead to what is not in it.

    Raises:
        WeightsError: a file or a folder in it is a link.
    """
    links = [path for path in sorted(folder.rglob("*")) if path.is_symlink()]
    if shown := [path.relative_to(folder).as_posix() for path in links if _visible(path, folder)]:
        raise WeightsError(
            f"{folder} holds links: {', '.join(shown)}. What they lead to would be published. Put "
            "copies in their place (of weights in the cache of the Hub, `facke weights pull REF "
            "-o DIR` makes some), and push again."
        )


def texts_of(folder: Path, names: list[str]) -> dict[str, bytes]:
    """Read the text files of a folder, once, and refuse those that tell of this machine.

    Returns:
        Name -> content: in ``evaluation.json`` pictures and people have numbers for names.

    Raises:
        WeightsError: a text names a place on a machine.
    """
    texts = {}
    for name in names:
        path = folder / name
        if path.suffix == ".safetensors":
            _check_metadata(path)
            continue
        if path.stat().st_size > _LARGEST:
            raise WeightsError(f"{path} is too large for a text. Move it elsewhere and push again.")
        texts[name] = path.read_bytes()
        _check(path, texts[name].decode("utf-8", errors="replace"), folder)
        if path.suffix == ".json":
            content = read_json(path)
            for where, value in strings(content):
                if _is_place(value) or _PLACE.search(value):
                    raise _refused(path, f"{value!r} ({where})")
                _check(path, value, folder)
            if name == layout.EVALUATION:
                texts[name] = json_text(_without_names(content, path)).encode()
    return texts


def _without_names(content: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        return without_names(content)
    except (AttributeError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} is not what `facke evaluate` writes: {error!r}. Write it again, or remove it, "
            "and push again."
        ) from error


def without_names(content: dict[str, Any]) -> dict[str, Any]:
    """The content of ``evaluation.json`` with numbers for the names of pictures and people."""
    reports = content.get("reports")
    rows = [
        row
        for report in (reports if isinstance(reports, list) else ())
        for row in report.get("rows") or ()
    ]
    names: dict[str, str] = {}
    for row in rows:
        for kind in ("picture", "person"):
            for side in ("source", "target"):
                name = row.get(side if kind == "picture" else f"{side}_identity")
                if isinstance(name, str) and name:
                    names.setdefault(name, f"{kind} {len(names) + 1}")
    if not names:
        return content
    some = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    told = re.compile(rf"(?<!\w)(?:{some})(?!\w)")

    def hidden(value: Any) -> Any:
        if isinstance(value, str):
            return told.sub(lambda found: names[found[0]], value)
        if isinstance(value, list):
            return [hidden(each) for each in value]
        if isinstance(value, Mapping):
            return {hidden(key): hidden(each) for key, each in value.items()}
        return value

    parts = ("rows", "skipped")
    shown = [
        report | {part: hidden(report[part]) for part in parts if part in report}
        for report in content["reports"]
    ]
    return content | {"reports": shown}


def without_places(settings: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Settings with the last name of each path in the place of it."""
    if settings is None:
        return None
    return {
        key: PureWindowsPath(value).name if isinstance(value, str) and _is_place(value) else value
        for key, value in settings.items()
    }


def strings(content: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text in a JSON document, and where it stands; keys are texts too."""
    if isinstance(content, str):
        yield where, content
    elif isinstance(content, list):
        for number, each in enumerate(content):
            yield from strings(each, f"{where}[{number}]")
    elif isinstance(content, Mapping):
        for key, each in content.items():
            yield where, str(key)
            yield from strings(each, f"{where}.{key}".strip("."))


def _is_place(text: str) -> bool:
    """Tell whether a text is an absolute path, of whatever system."""
    if "\n" in text or len(text) > 4096:
        return False
    absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    return absolute or text.startswith(("~/", "~\\", "file:")) or bool(_DRIVE.match(text))


def _check(path: Path, text: str, folder: Path) -> None:
    home = _HOME.search(text)
    places = (Path(os.path.expanduser("~")), folder.absolute())  # ~ where there is no home
    here = [str(place) for place in places if len(place.parts) > 2]
    place = home[0] if home else next((place for place in here if place in text), "")
    if place:
        raise _refused(path, repr(place))


def _check_metadata(path: Path) -> None:
    """Refuse places in what a safetensors file says about itself."""
    try:
        metadata = json.dumps(_tensors.mapped(path).metadata, ensure_ascii=False)
    except (ValueError, OSError):  # others say what is wrong with it
        return
    _check(path, metadata, path.parent)


def _refused(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path} names {what}, a place on your machine, which tells everybody whose it is and how "
        "your files are called. Take it out, or move the file elsewhere, and push again."
    )


def _visible(path: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)
