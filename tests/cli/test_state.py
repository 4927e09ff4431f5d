"""`functions list` beside a running server."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import jwt
import pytest

from runtime.cli import output, state
from tests.cli.conftest import Run
from tests.running import SECRET, serving
from tests.running import project as project_on_disk

BROKEN = "raise ValueError('first\\nsecond \\x1b[31m' + 'x' * 100)\n"
CONFIG = "[ai]\npreload = []\n[functions.off]\nenabled = false\n"


class Played(BaseHTTPRequestHandler):
    """A program that has the project's port."""

    answer = b"{}"
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.headers["authorization"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def played(answer: bytes) -> Iterator[tuple[int, list[str]]]:
    """It answers everything with `answer`: its port, and what it was shown."""
    asked: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), type("It", (Played,), {"answer": answer, "asked": asked}))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use_port(project: Path, port: int) -> None:
    (project / "supabase").mkdir(exist_ok=True)
    (project / "supabase/config.toml").write_text(f"[api]\nport = {port}\n")


def test_the_list_says_how_the_functions_of_the_running_server_are(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "async def handler(request):\n    return {}\n"
    root = project_on_disk(tmp_path, {"hello": source, "broken": BROKEN, "off": source}, CONFIG)
    monkeypatch.setenv("JWT_SECRET", SECRET)
    monkeypatch.setattr(state, "_PATIENCE_S", 10.0)
    with serving(root) as server:
        config = root / "supabase/config.toml"
        config.write_text(f"{CONFIG}[api]\nport = {server.url.rsplit(':', 1)[1]}\n")
        shown = {line.split()[0]: line for line in run("list", "--root", str(root)).out.splitlines()}
        listed = json.loads(run("list", "--json", "--root", str(root)).out)
        config.write_text(CONFIG)
        for option in ("--port", server.url.rsplit(":", 1)[1]), ("--url", f"{server.url}/"):
            named = json.loads(run("list", "--json", "--root", str(root), *option).out)
            assert [entry["live"] for entry in named] == [entry["live"] for entry in listed]
    assert "ValueError: first second [31mxx" in shown["broken"]
    assert "\x1b" not in shown["broken"]
    live = {entry["name"]: entry["live"] for entry in listed}
    assert live["hello"]["state"] == "ready"
    generation = live["hello"]["generation"]
    assert len(generation) == 16
    assert shown["hello"].split()[1:9] == ["ready", generation[:8], "1", *"000", "-", "yes"]
    assert shown["off"].split()[1:9] == [*"-------", "no"]
    assert shown["broken"].split()[1::2][:3] == ["failed", "0", "0"]
    assert live["off"] is None
    assert live["broken"]["last_error"].startswith("ValueError: first\nsecond")


def test_the_columns_of_a_usual_function_fit_a_usual_terminal() -> None:
    live = state.Live({"hello": state.State("failing", "0123456789abcdef+12", 1, 2, 3, 4, "OSError: no")})
    lines = output.align([live.header(("NAME",)), live.row(("hello",))])
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[2] == "01234567+12"


@pytest.mark.parametrize("way", ["--port", "--url"])
def test_a_server_that_was_named_has_to_answer(run: Run, project: Path, way: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    outcome = run("list", way, str(port) if way == "--port" else f"http://127.0.0.1:{port}")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"http://127.0.0.1:{port}: no server of this project answers here" in outcome.err


def test_another_program_on_the_port_is_no_server_and_gets_no_key(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    bare = run("list").out
    monkeypatch.setattr(state, "_PATIENCE_S", 10.0)
    for answer in (b"{}", b"<html>", b'{"functions": []}', b'{"functions": {"hello": {"state": 1}}}'):
        with played(answer) as (port, asked):
            use_port(project, port)
            assert run("list").out == bare
        claims = jwt.decode(asked[0].removeprefix("Bearer "), SECRET, algorithms=["HS256"])
        assert claims["role"] == "service_role"
        assert claims["exp"] < time.time() + 11


def test_a_program_that_does_not_answer_is_not_waited_for(run: Run, project: Path) -> None:
    bare = run("list").out
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_port(project, silent.getsockname()[1])
        assert run("list").out == bare


def test_without_a_secret_nobody_is_asked(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_JWKS", '{"keys": []}')
    with played(b"{}") as (port, asked):
        use_port(project, port)
        config = project / "supabase/config.toml"
        config.write_text(config.read_text() + '[edge_runtime]\nhost = "0.0.0.0"\n')
        assert run("list").code == 0
    assert asked == []
