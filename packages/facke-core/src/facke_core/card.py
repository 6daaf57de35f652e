"""The model card: README.md of a folder of weights, made from its own files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facke_core.weights import WeightsConfig

_USE = """## Use

```sh
facke swap SOURCE TARGET -o OUT --weights ./{folder}
```

```python
from facke_core import load

swapper = load("./{folder}")
swapper("source.jpg", "target.jpg").save("out.png")
```
"""

_LIMITS = """## Intended use and limits

For research on face swapping, and for pictures of people who agreed to it. Results carry metadata
that calls them synthetic; leave it in. Do not pass a result off as a photograph, and do not swap
people who did not consent. Faces unlike those in the training data come out worse.
"""


def model_card(
    config: WeightsConfig,
    evaluation: Mapping[str, Any] | None = None,
    *,
    folder: str = "folder",
) -> str:
    """Markdown with Hub front matter.

    Args:
        config: the content of ``config.json``.
        evaluation: the content of ``evaluation.json``: metric -> value, or metric ->
            ``{"value": ..., "n": ...}``.
        folder: how the examples call the folder.
    """
    license_line = f"license: {config.license.lower()}\n" if config.license else ""
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
    parts = [
        f"---\nlibrary_name: facke\n{license_line}tags:\n- face-swapping\n- {config.method}\n---\n",
        f"# {config.method}, {size} px\n",
        _table(("", ""), facts),
        _USE.format(folder=folder),
        _LIMITS,
    ]
    if config.training:
        training = {key: value for key, value in config.training.items() if key != "log"}
        parts.append("## Training\n\n" + _table(("", ""), training))
        if config.training.get("log"):
            parts.append(f"```\n{str(config.training['log']).strip()}\n```\n")
    if evaluation:
        values = {
            name: f"{v['value']:.4g} (n = {v['n']})" if isinstance(v, Mapping) else v
            for name, v in evaluation.items()
        }
        parts.append("## Evaluation\n\n" + _table(("metric", "value"), values))
    return "\n".join(parts)


def _settings(values: Mapping[str, Any]) -> str:
    text = ", ".join(f"{key} = {value}" for key, value in values.items())
    return f" ({text})" if text else ""


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    for key, value in rows.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        lines.append(f"| {key} | {' '.join(text.split()).replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"
