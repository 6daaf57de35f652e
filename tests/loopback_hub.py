"""A Hugging Face Hub on the loopback interface, for the real client: standard library only.

Speaks what ``huggingface_hub`` 2.x asks for: repositories, branches, the tree, files with ETag and
Range, commits as NDJSON, and the LFS protocol (batch, PUT, verify) for large files and safetensors.
Xet it does not speak: clients set ``HF_HUB_DISABLE_XET=1``.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

WRITER, READER = "hf_writer", "hf_reader"
"""Tokens. Both may read private repositories; one may write."""
LARGE = 10 * 2**20


class Request(NamedTuple):
    """One line of the log."""

    method: str
    path: str
    range: str
    status: int


@dataclass
class Repo:
    """A repository: commits, each a mapping of paths to contents."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        oid = self.branches.get(revision, revision)
        return oid if oid in self.commits else None


class LoopbackHub:
    """``with LoopbackHub() as hub``: serves in a thread, at ``hub.url``."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        """LFS objects by SHA-256."""
        self.verified: set[str] = set()
        self.log: list[Request] = []
        self.cut: dict[str, int] = {}
        """SHA-256 of an object -> after how many bytes its next download is cut off."""
        self.on_request: Callable[[Request], None] = lambda request: None
        """Called once an answer is made, before it is sent."""

    def __enter__(self) -> LoopbackHub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.cdn = self.url.replace("127.0.0.1", "localhost")  # another host, as on the real one
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


class _Answer(Exception):
    """Ends a request."""

    def __init__(self, status: int, body: Any = None, **headers: str) -> None:
        self.status, self.body = status, body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None: ...

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            self.data = self._chunks()
        else:
            self.data = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        try:
            self._route(path)
        except _Answer as answer:
            self._send(path, answer)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _route(self, path: str) -> None:
        name = r"(?P<repo>[\w.-]+/[\w.-]+)"
        routes: dict[str, Callable[..., None]] = {
            r"/api/whoami-v2": self._whoami,
            r"/api/repos/create": self._create,
            r"/api/validate-yaml": self._validate,
            rf"/api/models/{name}(/revision/(?P<revision>.+))?": self._info,
            rf"/api/models/{name}/tree/(?P<revision>.+)": self._tree,
            rf"/api/models/{name}/branch/(?P<branch>.+)": self._branch,
            rf"/api/models/{name}/preupload/(?P<revision>.+)": self._preupload,
            rf"/api/models/{name}/commit/(?P<revision>.+)": self._commit,
            rf"/{name}\.git/info/lfs/objects/batch": self._batch,
            rf"/{name}/resolve/(?P<revision>[^/]+)/(?P<file>.+)": self._resolve,
            r"/lfs/upload/(?P<oid>\w+)": self._put,
            r"/lfs/verify": self._verify,
            r"/cdn/(?P<oid>\w+)": self._object,
        }
        for pattern, answer in routes.items():
            if match := re.fullmatch(pattern, path):
                answer(**match.groupdict())
        raise _Answer(404, {"error": "no such address"})

    # -- who may do what -------------------------------------------------------------------------

    @property
    def _token(self) -> str:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in (WRITER, READER):
            message = "Invalid credentials in Authorization header"
            raise _Answer(401, {"error": message}, X_Error_Message=message)
        return token

    def _readable(self, repo: str) -> Repo:
        token = self._token
        found = self.hub.repos.get(repo)
        if found is None or (found.private and not token):
            # as the Hub: without a token nobody learns what exists
            raise _Answer(404 if token else 401, {"error": "?"}, X_Error_Code="RepoNotFound")
        return found

    def _must_write(self) -> None:
        if self._token != WRITER:
            status = 403 if self._token else 401
            message = "You don't have the rights to write to this namespace"
            raise _Answer(status, {"error": message}, X_Error_Message=message)

    def _at(self, repo: Repo, revision: str) -> str:
        oid = repo.resolve(unquote(revision))
        if oid is None:
            raise _Answer(404, {"error": "?"}, X_Error_Code="RevisionNotFound")
        return oid

    # -- the API ---------------------------------------------------------------------------------

    def _whoami(self) -> None:
        if not self._token:
            raise _Answer(401, {"error": "?"})
        raise _Answer(200, {"name": "somebody", "type": "user"})

    def _validate(self) -> None:
        content = json.loads(self.data)["content"]
        if not content.startswith("---\n"):
            raise _Answer(200, {"errors": [], "warnings": [{"message": "empty metadata"}]})
        raise _Answer(200, {"errors": [], "warnings": []})

    def _create(self) -> None:
        self._must_write()
        asked = json.loads(self.data)
        name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
        if name in self.hub.repos:
            raise _Answer(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
        repo = self.hub.repos[name] = Repo(private=asked.get("visibility") == "private")
        repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        raise _Answer(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def _info(self, repo: str, revision: str | None) -> None:
        found = self._readable(repo)
        oid = self._at(found, revision or "main")
        names = [{"rfilename": name} for name in found.commits[oid]]
        about = {"id": repo, "modelId": repo, "sha": oid, "private": found.private, "tags": []}
        raise _Answer(200, {**about, "gated": found.gated, "siblings": names})

    def _tree(self, repo: str, revision: str) -> None:
        found = self._readable(repo)
        entries = []
        for path, content in found.commits[self._at(found, revision)].items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
            entry["oid"] = _git_oid(content)
            if _is_large(path, len(content)):
                oid = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        raise _Answer(200, entries)

    def _branch(self, repo: str, branch: str) -> None:
        self._must_write()
        found = self._readable(repo)
        if branch in found.branches:
            raise _Answer(409, {"error": "exists"})
        found.branches[branch] = found.branches["main"]
        raise _Answer(200, {})

    def _preupload(self, repo: str, revision: str) -> None:
        self._must_write()
        found = self._readable(repo)
        there = found.commits[self._at(found, revision)]
        answers = []
        for one in json.loads(self.data)["files"]:
            path, content = one["path"], there.get(one["path"])
            large = _is_large(path, one["size"])
            oid = None
            if content is not None:
                oid = hashlib.sha256(content).hexdigest() if large else _git_oid(content)
            mode = "lfs" if large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        raise _Answer(200, {"files": answers})

    def _commit(self, repo: str, revision: str) -> None:
        self._must_write()
        found = self._readable(repo)
        files = dict(found.commits[self._at(found, revision)])
        for line in self.data.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.verified:
                    raise _Answer(400, {"error": "LFS object was not uploaded"})
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        oid = found.commit(unquote(revision), files)
        url = f"{self.hub.url}/{repo}/commit/{oid}"
        raise _Answer(200, {"success": True, "commitOid": oid, "commitUrl": url})

    # -- large files -----------------------------------------------------------------------------

    def _batch(self, repo: str) -> None:
        self._must_write()
        objects = []
        for one in json.loads(self.data)["objects"]:
            answer = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.objects:
                answer["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/upload/{one['oid']}"},
                    "verify": {"href": f"{self.hub.url}/lfs/verify"},
                }
            objects.append(answer)
        raise _Answer(200, {"transfer": "basic", "objects": objects})

    def _put(self, oid: str) -> None:
        if hashlib.sha256(self.data).hexdigest() != oid:
            raise _Answer(400, {"error": "other content"})
        self.hub.objects[oid] = self.data
        raise _Answer(200, b"")

    def _verify(self) -> None:
        self._must_write()
        asked = json.loads(self.data)
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise _Answer(404, {"error": "no such object"})
        self.hub.verified.add(asked["oid"])
        raise _Answer(200, {})

    # -- downloads -------------------------------------------------------------------------------

    def _resolve(self, repo: str, revision: str, file: str) -> None:
        found = self._readable(repo)
        if found.gated:
            status = 403 if self._token else 401
            raise _Answer(status, {"error": "gated"}, X_Error_Code="GatedRepo")
        oid = self._at(found, revision)
        content = found.commits[oid].get(file)
        if content is None:
            raise _Answer(404, {"error": "?"}, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
        if not _is_large(file, len(content)):
            raise _Answer(200, content, X_Repo_Commit=oid, ETag=f'"{_git_oid(content)}"')
        sha = hashlib.sha256(content).hexdigest()
        raise _Answer(
            302,
            b"",
            X_Repo_Commit=oid,
            X_Linked_ETag=f'"{sha}"',
            X_Linked_Size=str(len(content)),
            ETag=f'"{sha}"',
            Location=f"{self.hub.cdn}/cdn/{sha}",
        )

    def _object(self, oid: str) -> None:
        raise _Answer(200, self.hub.objects[oid], ETag=f'"{oid}"', Accept_Ranges="bytes")

    # -- the wire --------------------------------------------------------------------------------

    def _send(self, path: str, answer: _Answer) -> None:
        body, status, headers = answer.body, answer.status, answer.headers
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        asked = self.headers.get("Range", "")
        if (
            status == 200
            and isinstance(body, bytes)
            and (found := re.match(r"bytes=(\d+)-", asked))
        ):
            start = int(found[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            status, data = 206, data[start:]
        self.hub.log.append(Request(self.command, path, asked, status))
        self.hub.on_request(self.hub.log[-1])
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.hub.cut.pop(path.rpartition("/")[2], None)
        self.wfile.write(data[:limit])
        if limit is not None:
            self.wfile.flush()
            self.close_connection = True


def _is_large(path: str, size: int) -> bool:
    return path.endswith(".safetensors") or size > LARGE


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
