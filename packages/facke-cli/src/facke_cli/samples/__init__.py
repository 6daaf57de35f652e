"""Two public-domain portraits lie here for a first try; see CREDITS.md."""

from __future__ import annotations

from pathlib import Path

from facke_core.errors import UsageError, did_you_mean

__all__ = ["sample_or_path"]

PREFIX = "sample:"
_FILES = {"collins": "collins.png", "hopper": "hopper.jpg"}


def sample_or_path(text: str) -> Path:
    """Return the file that ``sample:collins`` or ``sample:hopper`` means; other texts are paths.

    Raises:
        UsageError: no such sample.
    """
    if not text.startswith(PREFIX):
        return Path(text)
    name = text.removeprefix(PREFIX)
    if name not in _FILES:
        known = ", ".join(PREFIX + key for key in _FILES)
        raise UsageError(
            f"There is no sample {name!r}.{did_you_mean(name, _FILES)} Samples: {known}."
        )
    return Path(__file__).with_name(_FILES[name])
