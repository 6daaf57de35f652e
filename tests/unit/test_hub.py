"""References to the Hub, against a small server on the loopback interface."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from facke_cli.main import main
from facke_core import Bundled, HubRef, MethodSpec, Registry
from facke_core.errors import UnavailableError, UnknownNameError, UsageError, WeightsError
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
