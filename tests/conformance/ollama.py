"""A server that speaks Ollama's API, for tests: it sends a token when the test allows one."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class Ollama:
    """Answers every prompt with the same words, on loopback and a port of its own.

    Attributes:
        bodies: what was asked, the oldest first.
        words: the tokens of the next answer.
        whole: the next answers end as they should; False: they break off after their words.
        refusal: instead of an answer: a status and an error message.
        abandoned: a client left before the end of its answer.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.words: tuple[str, ...] = ("Yo ", "Postgres ", "🎤")
        self.whole = True
        self.refusal: tuple[int, str] | None = None
        self.abandoned = threading.Event()
        self._permits = threading.Semaphore(0)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Ollama:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.allow(1000)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def allow(self, tokens: int = 1) -> None:
        """Let this many more tokens go out."""
        self._permits.release(tokens)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        ollama = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                ollama.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                if ollama.refusal is not None:
                    status, message = ollama.refusal
                    self.head(status, "application/json")
                    self.line({"error": message})
                    return
                self.head(200, "application/x-ndjson")
                try:
                    self.answer()
                except OSError:  # the client has left
                    ollama.abandoned.set()

            def answer(self) -> None:
                chats = self.path == "/api/chat"
                for word in ollama.words:
                    assert ollama._permits.acquire(timeout=20)
                    said = (
                        {"message": {"role": "assistant", "content": word}} if chats else {"response": word}
                    )
                    self.line({"model": "mistral", **said, "done": False})
                if not ollama.whole:
                    return
                last = {"message": {"role": "assistant", "content": ""}} if chats else {"response": ""}
                self.line({"model": "mistral", **last, "done": True, "done_reason": "stop"})

            def head(self, status: int, kind: str) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.end_headers()

            def line(self, value: dict[str, Any]) -> None:
                self.wfile.write(json.dumps(value).encode() + b"\n")
                self.wfile.flush()

            def log_message(self, *_: object) -> None:
                pass

        return Handler
