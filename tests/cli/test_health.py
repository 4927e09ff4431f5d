"""`functions health`, as a container's health check calls it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime.cli import health
from runtime.project.settings import Settings
from tests.cli.conftest import Run


class Pages(BaseHTTPRequestHandler):
    """Answers `/_internal/ready` as told."""

    status, content = 200, b""
    asked: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.content)


@pytest.fixture
def port() -> Iterator[int]:
    Pages.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def says(status: int, content: Any) -> None:
    Pages.status = status
    Pages.content = content if isinstance(content, bytes) else json.dumps(content).encode()


def test_a_ready_server_is_healthy(run: Run, project: Path, port: int) -> None:
    says(200, {"message": "ok"})
    assert run("health", "--port", str(port)) == (0, "200 ok\n", "")
    assert Pages.asked == ["/_internal/ready"]


def test_a_server_that_is_starting_is_not_and_tells_what_it_waits_for(
    run: Run, project: Path, port: int
) -> None:
    says(503, {"message": "waiting for hello"})
    assert run("health", "--port", str(port)) == (1, "", "503 waiting for hello\n")


@pytest.mark.parametrize("content", [b"<html>", [], {"message": "two\nlines"}])
def test_whatever_answers_there_it_is_one_line(run: Run, project: Path, port: int, content: Any) -> None:
    says(404, content)
    outcome = run("health", "--port", str(port))
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("404 ")
    assert outcome.err.count("\n") == 1


def test_without_a_server_it_says_so_in_one_line(run: Run, project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    outcome = run("health", "--port", str(port))
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(f"no server answers at http://127.0.0.1:{port}: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}", "127.0.0.1:{}/", "http://127.0.0.1:{}/base/"])
def test_a_url_may_say_where_it_is(run: Run, project: Path, port: int, url: str) -> None:
    says(200, {"message": "ok"})
    assert run("health", "--url", url.format(port)).code == 0
    assert Pages.asked[0].removeprefix("/base") == "/_internal/ready"


@pytest.mark.parametrize("url", ["ftp:/nowhere", "http://[", "http://127.0.0.1:port"])
def test_a_url_that_is_none_is_not_healthy(run: Run, project: Path, url: str) -> None:
    outcome = run("health", "--url", url)
    assert (outcome.code, outcome.out) == (1, "")


def test_a_url_of_another_protocol_is_refused(run: Run, project: Path) -> None:
    outcome = run("health", "--url", "ftp://example.org:21")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--url: ftp://example.org:21 is no http:// or https:// URL" in outcome.err
    assert "http://example.org:21" in outcome.err


def test_the_port_is_the_server_s_own_where_the_project_names_none(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ask", lambda url: (True, url))
    assert run("health").out == f"http://127.0.0.1:{Settings(root='/').port}\n"


def test_the_port_is_the_project_s_and_nothing_else_of_it_has_to_be_in_order(
    run: Run, project: Path, port: int
) -> None:
    says(200, {"message": "ok"})
    (project / "supabase" / "functions").mkdir(parents=True)
    (project / "supabase" / "config.toml").write_text(f"[api]\nport = {port}\n")
    (project / "supabase" / "functions" / ".env").write_text("no variable\n")
    assert run("health").code == 0
