"""A language model for the pages: answers in Ollama's API and in OpenAI's, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.ai.upstream import Call, completed, generated, ndjson, serve, sse

WORDS = ("It was ", "both.")


async def _answer(call: Call) -> None:
    if call.request.path.endswith("/api/embed"):
        texts = call.request.json()["input"]
        call.answer(
            200, ndjson({"embeddings": [[0.6, 0.8]] * len(texts), "prompt_eval_count": 2 * len(texts)})
        )
        return
    streamed = call.request.json().get("stream", True)
    if call.request.path.endswith("/v1/chat/completions"):
        if streamed:
            call.head(content_type="text/event-stream")
            call.piece(sse(*completed(*WORDS)))
            call.end()
        else:
            message = {"role": "assistant", "content": "".join(WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            call.answer(200, ndjson({"id": "c", "choices": [choice]}))
    elif streamed:
        call.head()
        call.pieces(ndjson(chunk) for chunk in generated(*WORDS))
        call.end()
    else:
        whole: dict[str, object] = {"model": "m", "response": "".join(WORDS), "done": True}
        call.answer(200, ndjson(whole))


@contextmanager
def language_model() -> Iterator[int]:
    """Its port."""
    begun, ended = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    port = 0

    async def live() -> None:
        nonlocal port
        async with serve(_answer) as upstream:
            port = upstream.port
            begun.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(live()))
    thread.start()
    assert begun.wait(10)
    yield port
    loop.call_soon_threadsafe(ended.set)
    thread.join(10)
    loop.close()
