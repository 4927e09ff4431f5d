"""Answers of every kind."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from runtime import RedirectResponse, Request, Response

Handler = Callable[[Request], Awaitable[Any]]

TEXT = "the same text again and again, " * 1000
BLOCK = bytes(100_000)


def stamped(handler: Handler) -> Handler:
    """A decorator as frameworks have them."""

    @functools.wraps(handler)
    async def stamping(request: Request) -> Response:
        return Response(json.dumps(await handler(request)), headers={"x-stamp": handler.__name__})

    return stamping


async def hello(request: Request) -> Any:
    return {"message": f"Hello {(await request.json())['name']} from foo!"}


async def length(request: Request) -> Any:
    return {"length": len(await request.body()), "content-length": request.headers.get("content-length")}


@stamped
async def decorated(_: Request) -> Any:
    return {"decorated": True}


async def compressed(_: Request) -> Response:
    data = await asyncio.to_thread(gzip.compress, TEXT.encode())
    return Response(data, headers={"content-encoding": "gzip"}, media_type="text/plain")


async def pieces() -> AsyncIterator[str]:
    for number in range(5):
        yield f"piece {number}\n"
        await asyncio.sleep(0.005)


async def large() -> AsyncIterator[bytes]:
    for _ in range(200):
        yield BLOCK


def beside(name: str) -> Path:
    return Path(__file__).with_name(name)


ANSWERS: dict[str, Handler] = {
    "hello": hello,
    "length": length,
    "decorated": decorated,
    "compressed": compressed,
}
VALUES: dict[str, Callable[[], Any]] = {
    "stream": pieces,
    "large": large,
    "null": lambda: None,
    "empty": lambda: "",
    "redirect": lambda: RedirectResponse("/functions/v1/basic/redirect"),
    "object": object,
    "function": lambda: pieces,
    "data": lambda: json.loads(beside("data.json").read_text()),
    "binary": lambda: beside("add.wasm").read_bytes(),
}


async def handler(request: Request) -> Any:
    page = request.url.path.rpartition("/")[2]
    if page in ANSWERS:
        return await ANSWERS[page](request)
    return VALUES.get(page, lambda: "basic")()
