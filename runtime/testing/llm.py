"""A language model's server that answers from a script, spoken to without a network.

It takes the place of the HTTP transport, so that requests, parsing, limits and errors are
those of every other server.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import httpx2

from runtime.errors import InvalidInput
from runtime.testing import vectors
from runtime.testing.model import Answer, Call, FakeModel, Piece

_WHEN = "2025-01-01T00:00:00Z"
_LOADED = {"done": True, "done_reason": "load"}


class ScriptedServer(httpx2.AsyncBaseTransport):
    """Answers in Ollama's or OpenAI's format, as the path demands."""

    def __init__(self, model: FakeModel) -> None:
        self._model = model

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(await request.aread())
        path = request.url.path
        if path.rpartition("/")[2] in ("embed", "embeddings"):
            return self._embedded(body, path)
        streams = body["stream"]
        form = _form(path)(body["model"], path)
        if path.endswith("/api/generate") and body.get("prompt") == "":  # how a model is made ready
            return httpx2.Response(200, json=form.base | {"response": ""} | _LOADED)
        answer = self._model.answer(Call(model=body["model"], body=body, path=path))
        pieces = aiter(_checked(answer))
        first = await anext(pieces, None)  # an error at the start comes instead of the answer's head
        if not streams:
            return httpx2.Response(200, json=await form.whole(first, pieces))
        return httpx2.Response(
            200, headers={"content-type": form.content_type}, stream=_Body(form, first, pieces)
        )

    def _embedded(self, body: Mapping[str, Any], path: str) -> httpx2.Response:
        """The vectors that a fake of a local model has for these texts."""
        model, texts, keep = self._model, body["input"], body.get("dimensions")
        model.calls.append(Call(body["model"], texts, body=dict(body), path=path, dimensions=keep))
        try:
            model.check(body["model"], keep)
        except InvalidInput as error:
            return httpx2.Response(400, json={"error": {"message": error.message}})
        read = [vectors.tokens(text, model.max_tokens)[0] for text in texts]
        rows = [
            vectors.of_text(text, model.max_tokens, model.dimensions, normalize=True, keep=keep)
            for text in texts
        ]
        return httpx2.Response(200, json=_embeddings(path, rows, sum(map(len, read))))


def _embeddings(path: str, rows: Sequence[array[float]], tokens: int) -> dict[str, Any]:
    lists = [row.tolist() for row in rows]
    if path.endswith("/api/embed"):
        return {"embeddings": lists, "prompt_eval_count": tokens}
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(lists)]
    return {"object": "list", "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


async def _checked(answer: Answer) -> AsyncIterator[str | Mapping[str, Any]]:
    """The pieces of an answer; an exception among them is raised."""
    async for piece in _each(answer):
        if isinstance(piece, BaseException):
            raise piece
        yield piece


async def _each(answer: Answer) -> AsyncIterator[Piece]:
    if hasattr(answer, "__aiter__"):
        async for piece in answer:
            yield piece
    else:
        for piece in answer:
            yield piece


class _Ollama:
    content_type = "application/x-ndjson"

    def __init__(self, model: str, path: str) -> None:
        self.base = {"model": model, "created_at": _WHEN}
        self._chat = path.endswith("/api/chat")

    def _object(self, text: str) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"response": text}
        return self.base | said

    def line(self, piece: str | Mapping[str, Any]) -> bytes:
        value = self._object(piece) | {"done": False} if isinstance(piece, str) else piece
        return _json(value) + b"\n"

    def end(self) -> bytes:
        return _json(self._object("") | {"done": True, "done_reason": "stop"}) + b"\n"

    async def whole(self, first: Any, rest: AsyncIterator[Any]) -> Mapping[str, Any]:
        text, last = await _gathered(first, rest)
        return last or self._object(text) | {"done": True, "done_reason": "stop"}


class _OpenAI:
    content_type = "text/event-stream"

    def __init__(self, model: str, path: str) -> None:
        self.base = {"id": "chatcmpl-0", "created": 1735689600, "model": model}

    def _chunk(self, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return self.base | {"object": "chat.completion.chunk", "choices": [choice]}

    def line(self, piece: str | Mapping[str, Any]) -> bytes:
        value = self._chunk({"content": piece}, None) if isinstance(piece, str) else piece
        return b"data: " + _json(value) + b"\n\n"

    def end(self) -> bytes:
        return b"data: " + _json(self._chunk({}, "stop")) + b"\n\ndata: [DONE]\n\n"

    async def whole(self, first: Any, rest: AsyncIterator[Any]) -> Mapping[str, Any]:
        text, last = await _gathered(first, rest)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return last or self.base | {"object": "chat.completion", "choices": [choice]}


def _form(path: str) -> Callable[[str, str], _Ollama | _OpenAI]:
    return _OpenAI if path.endswith("/chat/completions") else _Ollama


async def _gathered(first: Any, rest: AsyncIterator[Any]) -> tuple[str, Mapping[str, Any] | None]:
    """The text of all pieces, and the object if one was given."""
    pieces = [] if first is None else [first]
    pieces += [piece async for piece in rest]
    objects = [piece for piece in pieces if not isinstance(piece, str)]
    return "".join(piece for piece in pieces if isinstance(piece, str)), (objects or [None])[-1]


class _Body(httpx2.AsyncByteStream):
    """The bytes of a streamed answer; a piece is asked for only when the one before was taken."""

    def __init__(self, form: _Ollama | _OpenAI, first: Any, rest: AsyncIterator[Any]) -> None:
        self._form, self._first, self._rest = form, first, rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._first is not None:
            yield self._form.line(self._first)
        async for piece in self._rest:
            yield self._form.line(piece)
        yield self._form.end()


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
