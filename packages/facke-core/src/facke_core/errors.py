"""Every error that facke raises on purpose.

A message has three parts: what was wrong (with the value), why, and what to do next. The command
line prints the message alone and exits with ``exit_code``; a traceback means a bug in facke.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

__all__ = [
    "CompatibilityError",
    "ConfigError",
    "DataError",
    "FackeWarning",
    "ImageError",
    "LicenseWarning",
    "NoFaceError",
    "OutOfMemoryError",
    "PluginError",
    "TrainingError",
    "UnavailableError",
    "UnknownNameError",
    "UsageError",
    "VerificationError",
    "WeightsError",
    "check_choice",
    "check_ranges",
    "did_you_mean",
]


class FackeError(Exception):
    """Base of all errors a user can meet. Its text says what was wrong, why, and what to do next::

    try:
        swapper("source.jpg", "target.jpg")
    except FackeError as error:
        print(error)
    """

    exit_code = 2
    """What the command line returns: 2 for wrong usage or bad input, 3 for a failed verification, 4
    where something is missing."""


class UsageError(FackeError):
    """An argument or option that makes no sense."""


class ImageError(FackeError):
    """A picture that cannot be read or written."""


class NoFaceError(FackeError):
    """No face, or not the face that was asked for, in a photo."""


class OutOfMemoryError(FackeError):
    """The memory of this machine, or what this process may use of it, does not suffice."""

    exit_code = 4


class ConfigError(FackeError):
    """A configuration file with an unknown key, a wrong type or a missing value."""


class DataError(FackeError):
    """A dataset that cannot be used."""


class UnknownNameError(FackeError):
    """A name that no plugin registered."""


class WeightsError(FackeError):
    """Weights that do not exist or do not fit the network."""


class VerificationError(WeightsError):
    """A file whose content is not what its digest, header or format promises."""

    exit_code = 3


class UnavailableError(FackeError):
    """A plugin, device or optional dependency that is missing here."""

    exit_code = 4


class PluginError(FackeError):
    """A plugin that cannot be registered, or whose target cannot be resolved."""

    exit_code = 4


class CompatibilityError(FackeError):
    """Parts that do not fit together: a sampler, a generator, an encoder."""


class TrainingError(FackeError):
    """A training that cannot go on."""


class FackeWarning(UserWarning):
    """Base of all warnings that facke issues."""


class LicenseWarning(FackeWarning):
    """Weights that not everybody may use for everything; once per process."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'simswap'?`` with a leading space, or an empty string."""
    import difflib

    if len(name) > 100:  # the comparison takes the square of its length
        return ""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without the full stop; its class without one."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def lacks_memory(error: Exception) -> bool:
    """Tell whether an allocation failed; torch and OpenCV say so in words only."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    said = str(error).lower()
    return any(
        words in said
        for words in ("not enough memory", "allocate memory", "out of memory", "insufficient mem")
    )


def check_choice(what: str, value: str, known: Iterable[str]) -> None:
    """Raise UsageError unless ``value`` is one of ``known``; ``what`` begins its text."""
    known = list(known)
    if value not in known:
        raise UsageError(
            f"{what} {value!r} does not exist.{did_you_mean(str(value), known)} "
            f"Choose one of: {', '.join(known)}."
        )


MAX_SIDE = 4096
"""Largest side in pixels of the square crops that networks take."""


def check_ranges(settings: object, where: str, **ranges: tuple[float, float]) -> None:
    """Raise ConfigError unless numbers of a configuration, or all in a tuple, lie in their range.

    Do so in ``__post_init__``: a number is checked before anything as large as it is made.

    Args:
        settings: has an attribute of each name.
        where: the first part of the path in messages, such as ``generator``.
        ranges: name -> lowest and highest value.
    """
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        for number in value if isinstance(value, tuple | list) else (value,):
            if not low <= number <= high:
                path = f"{where}.{name}" if where else name
                raise ConfigError(
                    f"{path}: {number} is not from {low} to {high}. Give a number in between."
                )
