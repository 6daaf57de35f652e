"""References to the Hub, against a small server on the loopback interface."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facke_cli.main import main
from facke_core import Bundled, HubRef, MethodSpec, Registry
from facke_core.errors import (
    FackeError,
    UnavailableError,
    UnknownNameError,
    UsageError,
    WeightsError,
)
from facke_core.weights import hub
from facke_core.weights.layout import WeightsConfig
from facke_core.weights.sources import Source, hub_location
from standins import registry_of

COMMIT = "c0ffee" * 6 + "c0ff"
FILES = {"config.json": b'{"method": "demo"}', "model.safetensors": b"tensors"}


class _Hub(http.server.BaseHTTPRequestHandler):
    """The two requests that a download makes, for one repository at one commit."""

    def _answer(self, *, body: bool) -> None:
        _, org, name, _, revision, file = self.path.split("/", 5)
        self.server.requests.append(f"{self.command} {self.path}")  # type: ignore[attr-defined]
        error = ""
        if f"{org}/{name}" == "org/gated":
            error = "GatedRepo"
        elif f"{org}/{name}" == "org/down":
            error = "Down"
        elif f"{org}/{name}" != "org/repo":
            error = "RepoNotFound"
        elif revision not in ("main", "v1", COMMIT):
            error = "RevisionNotFound"
        elif file not in FILES:
            error = "EntryNotFound"
        status = {"": 200, "GatedRepo": 403, "Down": 500}.get(error, 404)
        data = FILES[file] if not error else b""
        self.send_response(status)
        if error and error != "Down":
            self.send_header("X-Error-Code", error)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[http.server.HTTPServer]:
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.requests = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits between its attempts
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_files_are_fetched_at_the_commit_that_a_branch_stood_for(
    server: http.server.HTTPServer,
) -> None:
    fetched = hub.fetch(hub.HubLocation("org/repo", "v1"), FILES)
    assert fetched.commit == COMMIT
    assert {name: (fetched.folder / name).read_bytes() for name in FILES} == FILES
    second = [r for r in server.requests if "model.safetensors" in r]  # type: ignore[attr-defined]
    assert all(f"/resolve/{COMMIT}/" in request for request in second)


def test_what_was_fetched_once_needs_no_network(server: http.server.HTTPServer) -> None:
    hub.fetch(hub.HubLocation("org/repo", None), FILES)
    server.requests.clear()  # type: ignore[attr-defined]
    fetched = hub.fetch(hub.HubLocation("org/repo", None), FILES, local_files_only=True)
    assert fetched.commit == COMMIT
    assert server.requests == []  # type: ignore[attr-defined]


def test_offline_mode_is_honoured(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE"):
        hub.fetch(hub.HubLocation("org/repo", None), FILES)
    assert server.requests == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("repo", "revision", "file", "error", "message"),
    [
        ("org/absent", None, "config.json", WeightsError, "hf:org/absent does not exist at http"),
        ("org/gated", None, "config.json", WeightsError, "accept its conditions"),
        ("org/repo", "v9", "config.json", WeightsError, "no revision 'v9'"),
        ("org/repo", None, "absent.json", WeightsError, "lacks a file, so it is not in facke's"),
        ("org/down", None, "config.json", UnavailableError, "org/down"),
        ("org/re--po", None, "config.json", UsageError, "not a possible name on the Hub"),
    ],
)
def test_every_hub_error_says_what_to_try(
    server: http.server.HTTPServer,
    repo: str,
    revision: str | None,
    file: str,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        hub.fetch(hub.HubLocation(repo, revision), [file])


def test_a_hub_that_cannot_be_reached_is_explained(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(UnavailableError, match="the Hub was not reached"):
        hub.fetch(hub.HubLocation("org/repo", None), ["config.json"])


# -- what answers in the place of the Hub --------------------------------------------------------


class _Answers(http.server.BaseHTTPRequestHandler):
    """The same answer to everything."""

    def do_GET(self) -> None:
        status, headers, body = self.server.answer  # type: ignore[attr-defined]
        self.server.tokens.append(self.headers.get("Authorization"))  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None: ...


Answer = tuple[int, dict[str, str], bytes]
PAGE = {"Content-Type": "text/html"}
LOGIN: Answer = (200, PAGE, b"<html>Room number?</html>")


@pytest.fixture
def answering(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Answer, str], None]:
    """Let the server give one answer, with a token or none."""
    server.RequestHandlerClass = _Answers
    server.tokens = []  # type: ignore[attr-defined]

    def give(answer: Answer, token: str) -> None:
        server.answer = answer  # type: ignore[attr-defined]
        monkeypatch.setattr("huggingface_hub.get_token", lambda: token or None)

    return give


def _asked() -> str:
    """What is said of one file, which the cache does not have."""
    with pytest.raises(FackeError) as caught:
        hub.fetch(hub.HubLocation("org/repo", None), ["config.json"])
    return f"{caught.value.exit_code}: {caught.value}"


@pytest.mark.parametrize(
    ("status", "headers", "token", "code", "sentence", "advice"),
    [
        (401, {}, "", 2, "asks for a token", "hf auth login"),
        (401, {}, "hf_x", 2, "refuses the token", "/settings/tokens"),
        (403, {}, "hf_x", 2, "forbids this", "may not do it"),
        (403, PAGE, "", 2, "forbids this", "page of a firewall"),
        (404, {}, "", 2, "knows no such address", "HF_ENDPOINT"),
        (407, {}, "", 4, "The proxy wants to know who you are", "HTTPS_PROXY"),
        (429, {"Retry-After": "17"}, "", 4, "was asked too often", "Wait 17 s and"),
        (429, {}, "hf_x", 4, "was asked too often", "Wait a few minutes"),
        (
            429,
            {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"},
            "",
            4,
            "too often",
            "until Wed, 21",
        ),
        (500, {}, "", 4, "a fault of its own", "HF_HUB_OFFLINE=1"),
        (503, {"Retry-After": "120"}, "", 4, "a fault of its own", "Wait 120 s and"),
        (504, {}, "", 4, "a fault of its own", "try again"),
        (511, PAGE, "", 4, "as a Hub does", "login page of a network"),
        (200, PAGE, "", 4, "as a Hub does", "login page of a network"),
        (302, {"Location": "http://localhost:9/login"}, "", 4, "as a Hub does", "login page"),
        (418, {}, "", 4, "refuses this", "try again"),
    ],
)
def test_each_answer_has_its_sentence_and_its_advice(
    answering: Callable[[Answer, str], None],
    status: int,
    headers: dict[str, str],
    token: str,
    code: int,
    sentence: str,
    advice: str,
) -> None:
    answering((status, headers, LOGIN[2]), token)
    said = _asked()
    assert said.startswith(f"{code}: ")
    assert sentence in said
    assert advice in said
    assert "was not reached" not in said
    assert "unset HF_HUB_OFFLINE" not in said


def test_a_page_in_the_place_of_the_tree_of_files_is_no_hub(
    answering: Callable[[Answer, str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = WeightsConfig(method="demo", alignment={})
    first = hub.HubFiles(tmp_path, COMMIT)
    monkeypatch.setattr(hub, "fetch", lambda *_, **__: first)
    monkeypatch.setattr("facke_core.weights.layout.read_weights_config", lambda _: config)
    answering(LOGIN, "")
    with pytest.raises(UnavailableError, match="login page of a network"):
        hub.pull(hub.HubLocation("org/repo", None))


def _at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    from huggingface_hub import constants

    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)


def test_a_connection_that_is_not_secure_is_told_from_none(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _at(monkeypatch, f"https://127.0.0.1:{server.server_port}")
    assert "is not secure" in (said := _asked())
    assert "SSL_CERT_FILE" in said


def test_a_name_without_an_address_is_told_from_a_hub_that_is_down(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    _at(monkeypatch, "https://hub.invalid")
    assert "no address is known for hub.invalid" in (said := _asked())
    assert "DNS" in said


@pytest.mark.parametrize("endpoint", ["hub.example", "http://", "ftp://hub.example", "http://[::"])
def test_an_endpoint_that_is_no_address_is_named(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    _at(monkeypatch, endpoint)
    assert "HF_ENDPOINT" in _asked()


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://hub.example",
        "HTTP://hub.example:8080/path",
        "http://127.0.0.1@hub.example",
        "http://localhost.example",
        "http://10.0.0.7",
        "http://[2001:db8::1]",
    ],
)
def test_a_token_is_not_sent_unencrypted_to_another_machine(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    from huggingface_hub import constants

    def reached(*_: object, **__: object) -> None:
        raise AssertionError("something was sent")

    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    with monkeypatch.context() as context:
        context.setattr("huggingface_hub.hf_hub_download", reached)
        _at(context, endpoint)
        said = _asked()
    assert said.startswith("2: HF_ENDPOINT is ")
    assert "unencrypted" in said
    assert "hf_secret" not in said
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])  # what follows reaches nobody
    _at(monkeypatch, endpoint)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    assert "unencrypted" not in _asked()


def test_a_token_goes_to_this_machine_and_offline_none_does(
    answering: Callable[[Answer, str], None],
    server: http.server.HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering((503, {}, b""), "hf_x")
    assert "a fault of its own" in _asked()
    _at(monkeypatch, "http://hub.example")
    with pytest.raises(UnavailableError, match="not in the local cache"):
        hub.fetch(hub.HubLocation("org/repo", None), ["config.json"], local_files_only=True)


def test_a_reference_is_read_with_its_revision() -> None:
    assert hub.parse_reference("hf:org/repo") == ("org/repo", None)
    assert hub.parse_reference("hf:org/repo@v1.0") == ("org/repo", "v1.0")
    assert hub.parse_reference("hf:org/repo", "main") == ("org/repo", "main")
    with pytest.raises(UsageError, match="Write hf:org/repo"):
        hub.parse_reference("hf:repo")
    with pytest.raises(UsageError, match="Give one of them"):
        hub.parse_reference("hf:org/repo@v1", "v2")


@pytest.fixture
def far() -> Registry:
    weights: dict[str, HubRef | Bundled] = {
        "large": HubRef("org/repo", COMMIT),
        "own": Bundled("facke_gan:weights/x"),
    }
    spec = MethodSpec(name="far", summary="far", config="a:A", build="a:b", weights=weights)
    return registry_of("far-plugin", facke_methods=lambda: [spec])


def test_a_name_tells_its_place_on_the_hub(far: Registry) -> None:
    pinned = hub.HubLocation("org/repo", COMMIT)
    assert hub_location("far", registry=far) == hub_location("far.large", registry=far) == pinned
    assert hub_location("far", revision="v1", registry=far) == ("org/repo", "v1")
    assert hub_location("far.own", registry=far) is hub_location("./far", registry=far) is None
    assert hub_location("hf:org/repo@v1", registry=far) == ("org/repo", "v1")
    with pytest.raises(UnknownNameError, match="Did you mean 'large'"):
        hub_location("far.larg", registry=far)
    with pytest.raises(UsageError, match="Write hf:org/repo for the Hub"):
        hub_location("org/repo", registry=far)


def test_verify_fetches_all_files_of_a_method_on_the_hub(
    far: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled: list[hub.HubLocation] = []
    config = WeightsConfig(method="far", alignment={})
    place = hub.HubLocation("org/repo", COMMIT)
    found = Source(config=config, folder=tmp_path, name="far.large", revision=COMMIT, origin=place)
    monkeypatch.setattr("facke_core.weights.sources.default_registry", lambda: far)
    monkeypatch.setattr("facke_core.weights.sources._on_hub", lambda *_: found)
    monkeypatch.setattr(hub, "pull", pulled.append)
    assert main(["weights", "verify", "far"]) == 2, "an empty folder has nothing to check"
    assert pulled == [place]


def test_verify_takes_a_name_for_what_swap_takes_it_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "simswap").mkdir()
    assert main(["weights", "verify", "simswap"]) == 0, "the method, not the folder"
    (tmp_path / "mine").mkdir()
    assert main(["weights", "verify", "mine"]) == 2
    assert "write ./mine" in capsys.readouterr().err
