"""`functions invoke`, against a small server on a real socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime.cli.invoke import base_url
from runtime.project.settings import Settings
from tests.cli.conftest import Run


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked; /error with 500, /broken half, /slow once told to."""

    protocol_version = "HTTP/1.1"
    proceed: threading.Event

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        seen = {
            "method": self.command,
            "path": self.path,
            "body": body.decode(),
            "headers": {name.lower(): value for name, value in self.headers.items()},
        }
        name = self.path.partition("?")[0].rpartition("/")[2]
        self.send_response(500 if name == "error" else 200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        if name == "broken":
            self.wfile.write(b"a\r\ntoo short")
            self.close_connection = True
            return
        if name == "slow":
            self.wfile.write(b"5\r\nfirst\r\n")
            self.wfile.flush()
            self.proceed.wait(30)
        answer = json.dumps(seen).encode()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer), answer))

    do_POST = do_DELETE = do_GET


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    Echo.proceed = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        Echo.proceed.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def port(server: ThreadingHTTPServer) -> str:
    return str(server.server_address[1])


def test_it_posts_the_data_with_a_key_that_works(run: Run, project: Path, port: str) -> None:
    key = json.loads(run("keys", "--json").out)["ANON_KEY"]
    outcome = run("invoke", "hello", "-d", '{"name": "Functions"}', "--port", port)
    assert (outcome.code, outcome.err) == (0, "")
    seen = json.loads(outcome.out)
    assert (seen["method"], seen["path"]) == ("POST", "/functions/v1/hello")
    assert seen["body"] == '{"name": "Functions"}'
    assert seen["headers"]["content-type"] == "application/json"
    assert seen["headers"]["authorization"] == f"Bearer {key}"


def test_query_headers_role_and_path_arrive(run: Run, project: Path, port: str) -> None:
    key = json.loads(run("keys", "--json").out)["SERVICE_ROLE_KEY"]
    arguments = ("-q", "input=Luke, I am your father", "-q", "n=1", "-H", "x-mine: yes", "-X", "delete")
    outcome = run("invoke", "tasks/7", *arguments, "--role", "service_role", "--port", port)
    seen = json.loads(outcome.out)
    assert (seen["method"], seen["path"].partition("?")[0]) == ("DELETE", "/functions/v1/tasks/7")
    assert seen["path"].endswith("&n=1")
    assert seen["headers"]["x-mine"] == "yes"
    assert seen["headers"]["authorization"] == f"Bearer {key}"


@pytest.mark.parametrize(
    ("arguments", "sent"), [(["--role", "none"], None), (["-H", "authorization:mine"], "mine")]
)
def test_no_key_goes_along_where_none_is_wanted(
    run: Run, project: Path, port: str, arguments: list[str], sent: str | None
) -> None:
    seen = json.loads(run("invoke", "hello", "--port", port, *arguments).out)
    assert seen["headers"].get("authorization") == sent


def test_a_url_replaces_the_project_s_address(run: Run, project: Path, port: str) -> None:
    outcome = run("invoke", "hello", "--url", f"http://127.0.0.1:{port}/base/")
    assert json.loads(outcome.out)["path"] == "/base/hello"


def test_an_error_goes_to_stderr_with_its_body_and_exit_code_1(run: Run, project: Path, port: str) -> None:
    outcome = run("invoke", "error", "--port", port)
    assert (outcome.code, outcome.out) == (1, "")
    status, body = outcome.err.splitlines()
    assert status == "error: 500 Internal Server Error"
    assert json.loads(body)["path"] == "/functions/v1/error"


def test_an_answer_that_breaks_off_is_no_success(run: Run, project: Path, port: str) -> None:
    outcome = run("invoke", "broken", "--port", port)
    assert outcome.code == 1
    assert "broke off" in outcome.err


def test_without_a_server_it_says_how_to_start_one(run: Run, project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    outcome = run("invoke", "hello", "--port", port)
    assert (outcome.code, outcome.out) == (2, "")
    assert "`functions serve`" in outcome.err


def test_the_first_piece_is_printed_before_the_last_is_sent(project: Path, port: str) -> None:
    command = [sys.executable, "-m", "runtime.cli.main", "invoke", "slow", "--port", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 5) == b"first"
        assert process.poll() is None
        Echo.proceed.set()
        assert json.loads(process.stdout.read())["method"] == "GET"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:54321/functions/v1"),
        ("0.0.0.0", "http://127.0.0.1:54321/functions/v1"),
        ("::", "http://[::1]:54321/functions/v1"),
        ("localhost", "http://localhost:54321/functions/v1"),
    ],
)
def test_a_server_on_every_address_is_called_on_loopback(host: str, url: str) -> None:
    assert base_url(Settings(root="/", host=host), None) == url
