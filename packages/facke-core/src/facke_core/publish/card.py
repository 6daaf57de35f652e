"""The model card is README.md of a folder of weights, made from its other files."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from facke_core.publish._curves import Curves, table_rows
from facke_core.weights.hub import BESIDE
from facke_core.weights.layout import PLOT, logs_of

if TYPE_CHECKING:
    from facke_core.weights.layout import WeightsConfig

__all__ = ["model_card"]

_USE = """## Use

```sh
facke swap SOURCE TARGET -o OUT --weights {quoted}
```

```python
from facke_core import load

swapper = load({literal})
swapper("source.jpg", "target.jpg").save("out.png")
```
"""

_PIN = """The newest commit is taken; `{reference}@COMMIT` pins one.
`facke weights verify {reference}` checks digests and golden tensors.
"""

_LIMITS = """## Intended use and limits

For research on face swapping, and for pictures of people who agreed to it. Results carry metadata
that calls them synthetic; leave it in. Do not pass a result off as a photograph, and do not swap
people who did not consent. Faces unlike those in the training data come out worse.
"""


_LINK = re.compile(r"\](?:\((?P<file>[\w.-]+)\)|[(\[:])")
"""The end of a Markdown link, with the file in the same folder if it leads to one."""
_HUB_LICENSE = re.compile(
    r"afl-3\.0|apache-2\.0|bsd(-[23]-clause(-clear)?)?|bsl-1\.0|cc0-1\.0|cc-by(-nc)?-[234]\.0|"
    r"cc-by-nc-nd-[34]\.0|cc-by-nc-sa-[234]\.0|cc-by-nd-4\.0|cc-by-sa-[34]\.0|"
    r"cdla-permissive-[12]\.0|cdla-sharing-1\.0|ecl-2\.0|epl-[12]\.0|eupl-1\.[12]|a?gpl-3\.0|gpl-2\.0|"
    r"isc|lgpl-2\.1|lgpl-3\.0|mit|mpl-2\.0|ncsa|odbl|odc-by|osl-3\.0|pddl|postgresql|unlicense|"
    r"wtfpl|zlib"
)
"""The licences that the Hub takes in ``license:``; it knows more, of single models."""


def model_card(
    config: WeightsConfig,
    evaluation: Mapping[str, Any] | None = None,
    *,
    curves: Curves | None = None,
    folder: str = "folder",
    repo_id: str = "",
) -> str:
    """Write the card as Markdown, with the front matter of the Hub. It follows from the arguments.

    Args:
        config: the content of ``config.json``.
        evaluation: the content of ``evaluation.json``: what ``facke evaluate`` wrote as JSON.
        curves: the curves of the log that ``config.json`` names, for a table.
        folder: how the examples call the folder.
        repo_id: ``org/name`` on the Hub; the examples use it instead of the folder.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: ``evaluation`` is something else.
    """
    size = config.alignment.get("size", "")
    encoder = dict(config.identity_encoder or {})
    facts = {
        "method": config.method,
        "crop": f"{size} px, template {config.alignment.get('template', '')}",
        "identity encoder": encoder.pop("name", "none") + _settings(encoder),
        "generator": _settings(config.generator).strip(" ()") or "defaults",
        "licence of the weights": config.license or "not stated",
        "written by": config.facke.written_by,
        **{f"sha256 of {name}": info.sha256 for name, info in sorted(config.files.items())},
    }
    reference = f"hf:{repo_id}" if repo_id else f"./{folder}"
    parts = [
        _front_matter(config),
        f"# {config.method}, {size} px\n",
        table(facts),
        _USE.format(
            quoted=shlex.quote(reference), literal=json.dumps(reference, ensure_ascii=False)
        ),
        *([_PIN.format(reference=reference)] if repo_id else []),
        _LIMITS,
    ]
    if config.training:
        parts.append(_training(config, curves or {}))
    if evaluation:
        parts.append(_evaluation(evaluation))
    return "\n".join(parts)


def _front_matter(config: WeightsConfig) -> str:
    lines = ["library_name: facke", *license_lines(config.license)]
    # "hf:org/repo COMMIT", as a training that begins with weights records it
    begun = re.match(r"hf:([\w.-]+/[\w.-]+)", str(config.training.get("begun with", "")))
    if begun:
        lines += [f"base_model: {begun[1]}"]
    lines += ["tags:", "- face-swapping", f"- {config.method}"]
    return "---\n" + "\n".join(lines) + "\n---\n"


def license_lines(spdx: str) -> list[str]:
    """Return the licence as the front matter of a card on the Hub has it."""
    if not spdx:
        return []
    plain = re.sub(r"-(only|or-later)$|\+$", "", spdx.lower())
    for name in (
        plain,
        {"odbl-1.0": "odbl", "odc-by-1.0": "odc-by", "pddl-1.0": "pddl"}.get(plain),
    ):
        if name and _HUB_LICENSE.fullmatch(name):
            return [f"license: {name}"]
    slug = re.sub(r"[^a-z0-9.]+", "-", spdx.lower()).strip("-")
    lines = ["license: other", f"license_name: {slug}"]
    if re.fullmatch(r"[\w.+-]+", spdx) and not spdx.startswith("LicenseRef-"):
        lines.append(f"license_link: https://spdx.org/licenses/{spdx}.html")
    return lines


def _training(config: WeightsConfig, curves: Curves) -> str:
    logs = logs_of(config)
    about = {key: value for key, value in config.training.items() if key != "logs" or not logs}
    parts = ["## Training\n", *([table(about)] if about else [])]
    if PLOT in logs:
        parts.append(f"![The curves of the training]({PLOT})\n")
    if rows := table_rows(curves):
        parts.append(_grid(rows))
    if lines := [name for name in logs if PurePath(name).suffix == ".jsonl"]:
        parts.append(f"Every logged step: {', '.join(f'[{name}]({name})' for name in lines)}\n")
    return "\n".join(parts)


def _evaluation(content: Mapping[str, Any]) -> str:
    parts = ["## Evaluation\n"]
    for report in content["reports"]:
        rows = {
            f"{name} ({'higher' if report['metrics'][name]['higher_is_better'] else 'lower'} is "
            "better)": _estimate(value, report["metrics"][name]["unit"])
            for name, value in report["summary"].items()
        }
        if report.get("undetected") is not None:
            rows["results without a face"] = str(report["undetected"])
        protocol = report["protocol"]
        program = escaped(str(protocol.get("program", "facke evaluate"))).replace("`", "")
        parts.append(f"Of {escaped(report['name'])}, by `{program}`:\n")
        bounds = [value["low"] for value in report["summary"].values()]
        interval = ", 95 % interval" if any(low is not None for low in bounds) else ""
        parts.append(table(rows, ("metric", f"value{interval}")))
        if note := protocol.get("note"):
            parts.append(f"{_beginning(escaped(str(note)))}\n")
    return "\n".join(parts)


def _estimate(value: Mapping[str, Any], unit: str) -> str:
    if value["value"] is None:
        return "-"
    text = f"{value['value']:.4g}{' ' + unit if unit else ''}"
    if value.get("low") is not None and value.get("high") is not None:
        text += f" [{value['low']:.4g}, {value['high']:.4g}]"
    return f"{text} (n = {value['n']})"


def _settings(values: Mapping[str, Any]) -> str:
    text = ", ".join(f"{key} = {value}" for key, value in values.items())
    return f" ({text})" if text else ""


def table(rows: Mapping[str, Any], head: tuple[str, str] = ("property", "value")) -> str:
    """Write a table in Markdown: one row per key, ``head`` above them."""
    listed = (
        ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for value in rows.values()
    )
    return _grid([head, *zip(rows, listed, strict=True)])


def _grid(rows: Iterable[Sequence[str]]) -> str:
    """Write a table in Markdown, whose head is the first row."""
    head, *body = ([escaped(text) for text in row] for row in rows)
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Write a text as itself: no HTML, no pictures, no links but to files of the layout."""
    plain = "".join(each if each.isprintable() else " " for each in text)
    plain = " ".join(plain.split()).replace("&", "&amp;").replace("<", "&lt;")
    plain = re.sub(r"[\\`*~|]|(?<!\w)_|_(?!\w)", r"\\\g<0>", plain)
    return _LINK.sub(lambda link: link[0] if _beside(link) else rf"]\{link[0][1:]}", plain)


def _beside(link: re.Match[str]) -> bool:
    return any(fnmatch(link["file"] or "", pattern) for pattern in BESIDE)


def _beginning(text: str) -> str:
    """Write a text so that it begins no heading, list or quotation."""
    return re.sub(r"^([#>+=-]|\d+(?=[.)]))", r"\\\1", text)
