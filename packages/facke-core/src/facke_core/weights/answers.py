"""What the Hub answered, or why it did not: each case is a sentence and what to do about it.

Everything between this machine and the Hub may answer in its place: a proxy, a firewall, the login
page of a hotel. The errors of ``huggingface_hub`` and of its HTTP client are told apart here by
type, by the status of the answer and by what caused them.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from facke_core.errors import (
    FackeError,
    UnavailableError,
    UsageError,
    WeightsError,
    first_line,
)

__all__: list[str] = []

_LONGEST = 300
"""Characters that are shown of what a server says."""
_BETWEEN = "Check HF_ENDPOINT, and what stands between you and it (proxy, firewall)."
_CACHE = "or work from the cache with HF_HUB_OFFLINE=1"


class _Place(NamedTuple):
    """A repository at a revision; see :class:`facke_core.weights.hub.HubLocation`."""

    repo_id: str
    revision: str | None

    def __str__(self) -> str:
        at = f" at revision {self.revision!r}" if self.revision else ""
        return f"hf:{self.repo_id}{at}"


@contextmanager
def explaining(location: tuple[str, str | None], *, offline: bool = False) -> Iterator[None]:
    """Turn errors of ``huggingface_hub`` into :class:`FackeError` that say what to do.

    Args:
        location: what is asked for: the repository, and the revision or None.
        offline: nothing is sent, inside.

    Raises:
        UsageError: the token would be sent unencrypted; nothing is asked then.
        WeightsError: the Hub refuses this.
        UnavailableError: it does not answer, or something else answers for it.
    """
    from huggingface_hub import errors

    # the HTTP client's own base class; which client that is changes between versions
    http_error: Any = errors.HfHubHTTPError.__bases__[0]
    try:
        if not offline:
            _check_token_is_safe()
        yield
    except (http_error, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise _explained(error, _Place(*location)) from error
    except Exception as error:
        if type(error).__name__ != "InvalidURL":  # of the HTTP client, and none of its other errors
            raise
        raise _not_a_hub(_Place(*location), first_line(error)) from error


def _check_token_is_safe() -> None:
    """Refuse to send a token where everybody on the way can read it."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE or constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return
    place = urlsplit(constants.ENDPOINT)
    if place.scheme == "http" and not _is_this_machine(place.hostname or "") and get_token():
        raise UsageError(
            f"HF_ENDPOINT is {constants.ENDPOINT}, so the token (HF_TOKEN, or of `hf auth login`) "
            "would travel unencrypted, for everybody on the way to read. Give an address that "
            "begins with https, or set HF_HUB_DISABLE_IMPLICIT_TOKEN=1 to go without the token, "
            f"{_CACHE}."
        )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _explained(error: BaseException, location: _Place) -> FackeError:
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return UsageError(f"hf:{location.repo_id} is not a possible name on the Hub: {error}")
    if isinstance(error, UnicodeError):
        return UsageError(
            f"The token (HF_TOKEN, or of `hf auth login`) cannot be sent to {_hub()}: {error}. "
            f"Copy it again from {_hub()}/settings/tokens; it is plain letters and digits."
        )
    causes = list(_chain(error))
    if any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in causes):
        return UnavailableError(
            f"{location} is not in the local cache, and HF_HUB_OFFLINE is set. Unset it and "
            "connect once, or give ./folder with a copy."
        )
    answers = (cause for cause in causes if getattr(cause, "response", None) is not None)
    if answered := next(answers, None):
        return _refused(answered, location)
    if any(isinstance(cause, errors.FileMetadataError) for cause in causes):
        return _not_a_hub(location, first_line(error))
    transport: Any = next(base for base in errors.HfHubHTTPError.__mro__[1:] if base is not object)
    if any(isinstance(cause, transport | ConnectionError | TimeoutError) for cause in causes):
        return _not_reached(causes, location)
    if isinstance(error, errors.LocalEntryNotFoundError):
        return UnavailableError(
            f"{location} is not in the local cache, and only that may be used here. Fetch it once "
            "where the Hub can be reached, or give ./folder with a copy."
        )
    if isinstance(error, OSError) and not isinstance(error, ValueError):
        return UnavailableError(
            f"{location} cannot be stored: {first_line(error)}. Check the free space and the "
            "rights of the cache folder (HF_HOME)."
        )
    return _not_a_hub(location, f"{type(error).__name__}: {first_line(error)}")


def _refused(error: Any, location: _Place) -> FackeError:
    """Explain an answer with a status that is an error."""
    from huggingface_hub import errors, get_token

    hub, repo, status = _hub(), location.repo_id, int(error.response.status_code)
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    token = bool(get_token())
    if isinstance(error, errors.GatedRepoError):
        then = "with the token of the account that did" if token else f"and {log_in}"
        return WeightsError(
            f"hf:{repo} asks you to accept its conditions first. Do so at {hub}/{repo}, {then}, "
            "and try again."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return WeightsError(
            f"hf:{repo} has no revision {location.revision!r}. Give a branch, a tag or a "
            f"40-digit commit that is listed at {hub}/{repo}/commits."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        private = f"for a private repository {log_in}"
        if token:
            private = "or the token (HF_TOKEN, or of `hf auth login`) may not read it"
        return WeightsError(
            f"hf:{repo} does not exist at {hub}, or you may not see it (status {status}). Check "
            f"the spelling; {private}."
        )
    if isinstance(error, errors.EntryNotFoundError):
        return WeightsError(
            f"{location} lacks a file, so it is not in facke's layout (config.json and "
            f"safetensors): {_short(str(error).strip().splitlines()[-1])}"
        )
    if status == 511 or (status in (200, 203) and _is_page(error.response)):
        return _not_a_hub(location, "a page to log in to a network")
    why, advice = _of_status(status, error.response, location, token=token)
    what = WeightsError if status in (400, 401, 403, 404, 409, 410, 413, 422) else UnavailableError
    server = getattr(error, "server_message", None)
    said = f": {_short(server)}" if server else ""
    return what(f"{why} ({location}, status {status}{said}). {advice}")


def _of_status(status: int, response: Any, location: _Place, *, token: bool) -> tuple[str, str]:
    """Return what a status says, and what to do about it."""
    hub = _hub()
    make_one = (
        f"Make a token at {hub}/settings/tokens; publishing needs the right to write to "
        f"{location.repo_id.partition('/')[0]}."
    )
    if status == 401 and token:
        invalid = "It (HF_TOKEN, or of `hf auth login`) is not valid there."
        return f"{hub} refuses the token", f"{invalid} {make_one}"
    if status == 401:
        return f"{hub} asks for a token", "Log in with `hf auth login` or set HF_TOKEN."
    if status == 403:
        firewall = " If that is a page of a firewall, ask who runs it." * _is_page(response)
        may_not = "The token (HF_TOKEN, or of `hf auth login`) may not do it." if token else ""
        return f"{hub} forbids this", f"{may_not} {make_one}{firewall}".strip()
    if status == 404:
        return f"{hub} knows no such address", f"Check the spelling. {_BETWEEN}"
    if status == 407:
        return (
            "The proxy wants to know who you are before it lets you reach the Hub",
            "Put name and password into HTTPS_PROXY (http://NAME:PASSWORD@HOST:PORT), or let "
            "NO_PROXY name the Hub.",
        )
    if status == 429:
        when = _retry_after(response)
        more = "" if token else " Those who log in with `hf auth login` may ask more often."
        return f"{hub} was asked too often", f"Wait {when} and try again, {_CACHE}.{more}"
    if status >= 500:
        when = _retry_after(response)
        return f"{hub} has a fault of its own", f"Wait {when} and try again, {_CACHE}."
    return f"{hub} refuses this", "Correct that, and try again."


def _retry_after(response: Any) -> str:
    """Return how long a server asks to wait."""
    given = str(response.headers.get("Retry-After", "")).strip()
    if re.fullmatch(r"\d{1,6}", given):
        return f"{int(given)} s"
    return f"until {_short(given)}" if given else "a few minutes"


def _not_reached(causes: list[BaseException], location: _Place) -> FackeError:
    """Explain why there was no answer at all."""
    host = urlsplit(_hub()).hostname or _hub()
    reason = _short(str(causes[-1]) or str(causes[0]) or type(causes[0]).__name__)
    said = " ".join(map(str, causes))
    absent = f"{location} is not in the local cache, and the Hub was not reached"
    if any(isinstance(cause, ssl.SSLError) for cause in causes) or "SSL" in said:
        return UnavailableError(
            f"{absent}: the connection to {host} is not secure ({reason}). Check the clock of this "
            "machine; where a company's proxy opens connections, let SSL_CERT_FILE name its "
            f"certificate, {_CACHE}."
        )
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return UnavailableError(
            f"{absent}: no address is known for {host} ({reason}). Check the connection, the name "
            f"in HF_ENDPOINT and the DNS server, {_CACHE}."
        )
    kinds = {type(cause).__name__ for cause in causes}
    if "ProxyError" in kinds:
        wants = "407" in said
        do = "Put name and password into" if wants else "Check"
        return UnavailableError(
            f"{absent}: the proxy {'wants to know who you are' if wants else 'refused'} "
            f"({reason}). {do} HTTPS_PROXY (http://NAME:PASSWORD@HOST:PORT), or let NO_PROXY name "
            f"the Hub, {_CACHE}."
        )
    if any("Timeout" in kind for kind in kinds):
        return UnavailableError(
            f"{absent}: {host} did not answer in time. Try again later, {_CACHE}."
        )
    return UnavailableError(
        f"{absent}: {reason}. Connect once, check HF_ENDPOINT, {_CACHE}, or give ./folder with a "
        "copy."
    )


def _not_a_hub(location: _Place, what: str) -> FackeError:
    return UnavailableError(
        f"{_hub()} does not answer for {location} as a Hub does: {_short(what)}. It may be the "
        f"login page of a network: open any page in a browser. {_BETWEEN}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _hub() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _is_page(response: Any) -> bool:
    return "html" in str(response.headers.get("Content-Type", "")).lower()


def _short(text: str) -> str:
    return " ".join(text.split())[:_LONGEST].rstrip(".") or "no reason given"
