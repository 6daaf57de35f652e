"""Classes of licences: what weights allow, as far as their SPDX identifiers tell.

There are five, each asking for more care than the one before: ``permissive``, ``copyleft``
(share-alike), ``non-commercial``, ``research-only``, and ``unknown``: not stated, or stated in a
way that nothing can be concluded from. Who states no licence gives no rights, so ``unknown`` comes
last. This sorts; it is no legal advice.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from facke_core.errors import FackeError, LicenseWarning

if TYPE_CHECKING:
    from facke_core.plugins.registry import Registry
    from facke_core.weights.layout import WeightsConfig

__all__ = ["CLASSES", "classify"]

CLASSES = ("permissive", "copyleft", "non-commercial", "research-only", "unknown")
"""The classes, from the least to the most care."""

_PERMISSIVE = re.compile(
    r"0bsd|afl-3\.0|apache-2\.0|bsd-[23]-clause.*|bsl-1\.0|cc0-1\.0|cc-by-[1-4]\.\d|"
    r"cdla-permissive-[12]\.0|ecl-2\.0|isc|mit|mit-0|ncsa|odc-by-1\.0|openmdw-1\.[01]|pddl-1\.0|"
    r"postgresql|unlicense|wtfpl|zlib"
)
_COPYLEFT = re.compile(
    r"(a|l)?gpl-[123]\.\d(-only|-or-later|\+)?|mpl-[12]\.\d.*|epl-[12]\.0|eupl-1\.[012]|osl-3\.0|"
    r"cc-by-sa-[1-4]\.\d|cdla-sharing-1\.0|odbl-1\.0"
)
_NON_COMMERCIAL = re.compile(r"cc-by-nc(-sa|-nd)?-[1-4]\.\d.*|polyform-noncommercial-1\.0\.0")
_TOKEN = re.compile(r"[()]|[^\s()]+")


class Part(NamedTuple):
    """One thing with a licence of its own that a method uses."""

    part: str
    """The kind of thing: ``weights``, ``encoder`` or ``detector``."""
    name: str
    """What it is called."""
    license: str
    """SPDX identifier or expression; empty: not stated."""

    @property
    def kind(self) -> str:
        """The class of the licence, of :data:`CLASSES`."""
        return classify(self.license)


def classify(spdx: str) -> str:
    """Return the class, of :data:`CLASSES`, of an SPDX identifier or expression.

    Of ``A OR B`` the better one counts, of ``A AND B`` the worse; ``A WITH EXCEPTION`` is A. Names
    that begin with ``LicenseRef-`` are looked through for ``non-commercial`` and ``research``.
    """
    words = _TOKEN.findall(spdx)
    try:
        rank, rest = _any_of(words)
    except (IndexError, ValueError, RecursionError):
        return "unknown"
    return CLASSES[rank] if not rest else "unknown"


def at_least(kind: str, limit: str) -> bool:
    """Tell whether ``kind`` asks for as much care as ``limit``, or more."""
    return CLASSES.index(kind) >= CLASSES.index(limit)


def parts_of(
    config: WeightsConfig, name: str, registry: Registry, *, stated: str = ""
) -> tuple[Part, ...]:
    """List the weights themselves, the encoder that they need, and the detectors of photographs.

    Args:
        config: the ``config.json`` of the weights, read.
        name: what they are called.
        registry: whose detectors and encoders are meant.
        stated: the licence where ``config`` states none.
    """
    parts = [Part("weights", name, config.license or stated)]
    settings = dict(config.identity_encoder or {})
    if settings:
        encoder = str(settings.get("name", ""))
        try:
            spec_license = registry.encoders[encoder].license
        except FackeError:  # `verify` and `load` say what is missing
            spec_license = ""
        which = settings.get("model") or settings.get("weights")
        label = f"{encoder} {which}" if which else encoder
        parts.append(Part("encoder", label, str(settings.get("license") or spec_license)))
    detectors = registry.detectors.values()
    return (*parts, *(Part("detector", spec.name, spec.license) for spec in detectors))


def announce(config: WeightsConfig, *, name: str, revision: str, registry: Registry) -> None:
    """Warn, once per process, of weights or an encoder that not everybody may use for everything.

    Weights in a folder that state no licence are taken for one's own; those on the Hub are not.

    Warns:
        LicenseWarning: names the licences that are not permissive.
    """
    if not name:
        return
    parts = parts_of(config, name, registry)[: 2 if config.identity_encoder else 1]
    told = [
        part
        for part in parts
        if part.kind != "permissive"
        and (part.license or (part.part == "weights" and name.startswith("hf:")))
    ]
    at = f"@{revision[:12]}" if revision else ""
    key = (name, at, *told)
    if not told or key in _announced:
        return
    _announced.add(key)
    called = {"weights": f"the weights {{}}{at}", "encoder": "the encoder's weights {}"}
    terms = "; ".join(
        called[part.part].format(part.name)
        + (f" are under {part.license} ({part.kind})" if part.license else " state no licence")
        for part in told
    )
    text = f"{terms[0].upper()}{terms[1:]}. Mind what you may do with results."
    warnings.warn(text, LicenseWarning, stacklevel=3)


def first_time(message: str) -> bool:
    """Tell whether the command line has not said ``message`` yet, with this cache; remember it.

    Where nothing can be remembered, everything is said again.
    """
    import hashlib

    from facke_core.environment import cache_folder

    mark = cache_folder() / "licences-shown" / hashlib.sha256(message.encode()).hexdigest()[:16]
    if os.path.exists(mark):
        return False
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        pass
    return True


_announced: set[tuple[Any, ...]] = set()


def _any_of(words: Sequence[str]) -> tuple[int, Sequence[str]]:
    return _joined(words, "OR", min, lambda rest: _joined(rest, "AND", max, _one))


def _joined(
    words: Sequence[str],
    operator: str,
    choose: Callable[[int, int], int],
    read: Callable[[Sequence[str]], tuple[int, Sequence[str]]],
) -> tuple[int, Sequence[str]]:
    rank, rest = read(words)
    while rest and rest[0].upper() == operator:
        other, rest = read(rest[1:])
        rank = choose(rank, other)
    return rank, rest


def _one(words: Sequence[str]) -> tuple[int, Sequence[str]]:
    if words[0] == "(":
        rank, rest = _any_of(words[1:])
        if rest[0] != ")":
            raise ValueError(rest)
        return rank, rest[1:]
    rank, rest = CLASSES.index(_identifier(words[0].lower())), words[1:]
    if rest and rest[0].upper() == "WITH":
        rest = rest[2:]
    return rank, rest


def _identifier(name: str) -> str:
    for pattern, kind in _KNOWN.items():
        if pattern.fullmatch(name):
            return kind
    if name.startswith("licenseref-"):
        if "research" in name:
            return "research-only"
        if re.search(r"non-?commercial|\bnc\b", name):
            return "non-commercial"
    return "unknown"


_KNOWN: Mapping[re.Pattern[str], str] = {
    _PERMISSIVE: "permissive",
    _COPYLEFT: "copyleft",
    _NON_COMMERCIAL: "non-commercial",
}
