"""What a client is told when the LLM server of a function fails and the handler does not catch it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.running import Server, eventually, project, serving

KEY = "sk-very-secret"
ASK = f"""
from runtime import ai

async def handler(request):
    host = request.query_params.get("host")
    headers = {{"x-team": "{KEY}-team"}}
    session = ai.Session(request.query_params["model"], host=host, api_key="{KEY}", headers=headers)
    return await session.run("hi", timeout=ai.Timeout(first_token=1, connect=0.3))
"""


class LLM(BaseHTTPRequestHandler):
    """Does what the model's name says."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        if asked == "refuses":
            echo = f"no rights: {self.headers['authorization']}, {self.headers['x-team']}"
            self._answer(403, echo.encode())
        elif asked == "rambles":
            self._answer(500, b"x" * 100_000)
        elif asked == "breaks off":
            self._answer(200, b'{"response": "', length=100)
        elif asked == "says HTML":
            self._answer(200, b"<html>sign in</html>")
        elif asked == "hangs":
            self.connection.recv(1)  # until the client has enough

    def _answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *about: object) -> None:
        pass


@pytest.fixture(scope="module")
def llm() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), LLM) as server:
        serves = threading.Thread(target=server.serve_forever)
        serves.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serves.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, llm: str) -> Iterator[Server]:
    root: Path = project(tmp_path_factory.mktemp("llm"), {"ask": ASK})
    (root / "supabase" / "functions" / ".env").write_text(f"AI_INFERENCE_API_HOST={llm}\n")
    with serving(root) as running:
        yield running


@pytest.mark.parametrize(
    ("model", "status", "code", "says"),
    [
        ("refuses", 502, "UPSTREAM_ERROR", "status 403: no rights: Bearer ***, ***"),
        ("rambles", 502, "UPSTREAM_ERROR", "status 500: xxx"),
        ("says HTML", 502, "UPSTREAM_ERROR", "<html>sign in</html>"),
        ("breaks off", 502, "INCOMPLETE_STREAM", "in the middle of the answer"),
        ("hangs", 504, "INFERENCE_TIMEOUT", "timeout.first_token"),
        ("hangs up", 503, "AI_HOST_UNREACHABLE", "without an answer"),
    ],
)
def test_each_failure_has_its_status_and_code(
    server: Server, model: str, status: int, code: str, says: str
) -> None:
    with server.client() as client:
        response = client.get("/ask", params={"model": model})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert says in response.json()["message"]
    assert len(response.content) < 6000


@pytest.mark.parametrize("host", ["", "http://127.0.0.1:{port}/base"])
def test_nobody_there_is_told_with_the_address_and_what_to_check(server: Server, llm: str, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = host.format(port=taken.getsockname()[1])
    with server.client() as client:
        query = {"model": "hangs up"} | ({"host": address} if host else {})
        response = client.get("/ask", params=query)
    assert (response.status_code, response.json()["code"]) == (503, "AI_HOST_UNREACHABLE")
    told = response.json()["message"]
    assert (address or llm) in told
    assert ("`host`" if host else "AI_INFERENCE_API_HOST in supabase/functions/.env") in told


def test_no_answer_and_no_line_of_the_log_shows_a_key(server: Server) -> None:
    with server.client() as client:
        answers = [client.get("/ask", params={"model": model}).text for model in ("refuses", "rambles")]
    eventually(lambda: "UpstreamError: The LLM server answered with status 500" in server.log, "its line")
    for text in (*answers, server.log):
        assert KEY not in text
