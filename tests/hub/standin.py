"""A model hub on loopback, and the host that its large files are on; both can misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = Mapping[str, bytes]

HTML = b"<!doctype html><title>Sign in</title><p>Please accept the terms of this network."
_PIECE = 2048


@dataclass
class Fault:
    """How to answer the next requests whose path contains `on`.

    Attributes:
        times: for so many of them.
        body: instead of the true one.
        stop: after so many bytes of the body.
        stall: then be silent; otherwise cut the connection.
        ranges: heed a request for a part.
        length: announce how long the body is.
    """

    on: str = ""
    times: int = 1_000_000
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    stop: int | None = None
    stall: bool = False
    ranges: bool = True
    length: bool = True


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    host: str  # "hub" or "store"
    path: str
    headers: dict[str, str]

    @property
    def start(self) -> int:
        """The first byte that it wanted."""
        found = re.match(r"bytes=(\d+)-$", self.headers.get("range", ""))
        return int(found[1]) if found else 0


class StandIn:
    """The hub. `large` files are redirected to another port, with a signature, as a real one does it.

    Attributes:
        faults: the first that fits and is not used up decides.
        asked: every request so far.
        token: who must be known to read anything; empty: everybody may.
        served: bytes of files that went out.
    """

    def __init__(self, large: str = ".safetensors .onnx .data") -> None:
        self._large = tuple(large.split())
        self._commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self._branches: dict[str, dict[str, str]] = {}
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.token = ""
        self.served = 0
        self._limit: int | None = None
        self._waiting = 0
        self._turn = threading.Condition()
        self._closing = threading.Event()
        self._servers = [self._start("store"), self._start("hub")]
        self.store_url, self.url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def _start(self, host: str) -> ThreadingHTTPServer:
        hub = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                hub.asked.append(Asked(host, self.path, {k.lower(): v for k, v in self.headers.items()}))
                (hub._answer if host == "hub" else hub._answer_blob)(self)

            do_HEAD = do_GET

        server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def close(self) -> None:
        self._closing.set()
        self.go_on()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    # what it has

    def put(self, repository: str, files: Files, branch: str = "main") -> str:
        """A new commit on a branch; the commit."""
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self._commits.setdefault(repository, {})[digest] = dict(files)
        self._branches.setdefault(repository, {})[branch] = digest
        return digest

    def downloads(self, path: str = "") -> list[Asked]:
        """The requests for bytes of a file."""
        sought = path or "/blob/"
        return [asked for asked in self.asked if asked.host == "store" and sought in asked.path]

    def misbehave(self, **fault: Any) -> None:
        """Do so from now on."""
        self.faults.append(Fault(**fault))

    def hold_after(self, count: int) -> None:
        """Let about so many more bytes of files out, and no further ones until `go_on`."""
        with self._turn:
            self._limit = self.served + count
            self._turn.notify_all()

    def go_on(self) -> None:
        with self._turn:
            self._limit = None
            self._turn.notify_all()

    def holding(self) -> bool:
        """Somebody waits for bytes."""
        return self._waiting > 0

    # answering

    def _answer(self, handler: _Handler) -> None:
        path = unquote(urlsplit(handler.path).path)
        known = f"Bearer {self.token}" == handler.headers.get("authorization")
        described = path.startswith("/api/")
        if described and (fault := self._fault(path)):
            self._send(handler, b"", "text/plain", fault)
        elif path == "/":
            handler.respond(200, b"a hub")
        elif self.token and not known:
            handler.respond(401, b'{"error": "Invalid username or password."}')
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", path):
            self._describe(handler, match[1], match[2] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(handler, *match.groups())
        else:
            handler.respond(404, b"{}", {"x-error-code": "RepoNotFound"})

    def _commit(self, handler: _Handler, repository: str, revision: str) -> str | None:
        commits = self._commits.get(repository)
        if commits is None:
            handler.respond(404, b"{}", {"x-error-code": "RepoNotFound"})
            return None
        commit = self._branches[repository].get(revision, revision)
        if commit not in commits:
            handler.respond(404, b"{}", {"x-error-code": "RevisionNotFound"})
            return None
        return commit

    def _describe(self, handler: _Handler, repository: str, revision: str) -> None:
        commit = self._commit(handler, repository, revision)
        if commit is None:
            return
        assert parse_qs(urlsplit(handler.path).query)["blobs"] == ["True"] or "blobs=true" in handler.path
        files = self._commits[repository][commit]
        siblings = [self._sibling(path, content) for path, content in files.items()]
        said = {"id": repository, "sha": commit, "siblings": siblings, "cardData": {"license": "mit"}}
        handler.respond(200, json.dumps(said).encode(), {"content-type": "application/json"})

    def _sibling(self, path: str, content: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
        if path.endswith(self._large):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"size": len(content), "sha256": digest, "pointerSize": 134}
        return entry

    def _resolve(self, handler: _Handler, repository: str, revision: str, path: str) -> None:
        commit = self._commit(handler, repository, revision)
        if commit is None:
            return
        content = self._commits[repository][commit].get(path)
        if content is None:
            handler.respond(404, b"{}", {"x-error-code": "EntryNotFound"})
        elif path.endswith(self._large):
            place = f"{self.store_url}/blob/{repository}/{commit}/{path}?signature=secret-of-the-store"
            handler.respond(302, b"", {"location": place})
        else:
            self._send(handler, content, "text/plain", self._fault(handler.path) or Fault())

    def _answer_blob(self, handler: _Handler) -> None:
        path = unquote(urlsplit(handler.path).path)
        match = re.fullmatch(r"/blob/([^/]+/[^/]+)/([^/]+)/(.+)", path)
        assert match is not None
        content = self._commits[match[1]][match[2]][match[3]]
        self._send(handler, content, "application/octet-stream", self._fault(path) or Fault())

    def _fault(self, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.on in path and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def _send(self, handler: _Handler, content: bytes, kind: str, fault: Fault) -> None:
        content = content if fault.body is None else fault.body
        headers, status = {"content-type": kind} | fault.headers, fault.status
        found = re.match(r"bytes=(\d+)-$", handler.headers.get("range", ""))
        start = int(found[1]) if found and fault.ranges and status == 200 else 0
        if start:
            status = 206
            headers["content-range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.begin(status, headers, len(content) - start if fault.length else None)
        if fault.stop is not None:
            content = content[: start + fault.stop]
        for at in range(start, len(content), _PIECE):
            self._wait()
            piece = content[at : at + _PIECE]
            handler.wfile.write(piece)
            self.served += len(piece)
        if fault.stop is not None and fault.stall:
            self._closing.wait(60)
        if fault.stop is not None or not fault.length:
            handler.close_connection = True

    def _wait(self) -> None:
        with self._turn:
            self._waiting += 1
            self._turn.wait_for(lambda: self._limit is None or self.served < self._limit)
            self._waiting -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def begin(self, status: int, headers: Mapping[str, str], length: int | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is None:
            self.send_header("connection", "close")
        else:
            self.send_header("content-length", str(length))
        self.end_headers()

    def respond(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.begin(status, headers or {}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that leave in the middle are what the tests are about."""


@contextlib.contextmanager
def standing_in(make: Callable[[], StandIn] = StandIn) -> Iterator[StandIn]:
    """A hub for the time of a `with` block."""
    hub = make()
    try:
        yield hub
    finally:
        hub.close()
