"""How a request reaches an LLM server, and what is tried again."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest

from runtime import ai
from runtime.ai.llm import client
from runtime.ai.llm.server import Server
from runtime.ai.timeout import Timeout
from tests.ai.upstream import Call, for_ever, generated, ndjson, serve

pytestmark = pytest.mark.anyio


async def answers(call: Call) -> None:
    call.answer(200, ndjson(generated()[-1]))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Pauses:
    """Short ones without an end, that say when the second of them begins."""

    def __init__(self) -> None:
        self.refused = asyncio.Event()

    def __iter__(self) -> Iterator[float]:
        yield 0.01
        self.refused.set()
        yield from itertools.repeat(0.01)


class Lines:
    """A server of another protocol: it says a line to whoever speaks."""

    def __init__(self, line: bytes) -> None:
        self.line, self.connections, self.url = line, 0, ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await reader.read(1)
        if self.line:
            writer.write(self.line)
            await reader.read()
        writer.transport.abort()


@asynccontextmanager
async def lines(line: bytes, scheme: str = "http") -> AsyncIterator[Lines]:
    """`line`: what it says; nothing: it resets the connection after a byte."""
    found = Lines(line)
    server = await asyncio.start_server(found, "127.0.0.1", 0)
    found.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        await client.close()
        server.close()


# connecting


async def test_a_server_that_comes_up_is_reached_by_a_later_try(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, port = Pauses(), free_port()
    monkeypatch.setattr(client, "_PAUSES", pauses)
    call = asyncio.create_task(ai.Session("m", host=f"http://127.0.0.1:{port}").run("hi", timeout=30))
    await pauses.refused.wait()
    async with serve(answers, port) as upstream:
        assert (await call).done
        assert (len(upstream.requests), upstream.connections) == (1, 1)


async def test_a_name_that_is_not_found_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lookups, look_up = [], anyio.getaddrinfo

    async def fails_twice(*wanted: Any, **more: Any) -> Any:
        lookups.append(wanted[0])
        if len(lookups) < 3:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return await look_up("127.0.0.1", *wanted[1:], **more)

    monkeypatch.setattr(client, "_PAUSES", (0.01, 0.01))
    monkeypatch.setattr("anyio._core._sockets.getaddrinfo", fails_twice)
    async with serve(answers) as upstream:
        session = ai.Session("m", host=upstream.url.replace("127.0.0.1", "llm.example"))
        assert (await session.run("hi")).done
        assert (len(lookups), len(upstream.requests)) == (3, 1)


async def test_a_connection_that_the_system_gave_up_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(httpx2.AsyncBaseTransport):
        tries = 0

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            self.tries += 1
            if self.tries < 3:
                raise httpx2.ConnectTimeout("Connection timed out")
            return httpx2.Response(200, json={"done": True})

    monkeypatch.setattr(client, "_PAUSES", (0.01, 0.01))
    slow = Slow()
    upstream = await client.post(Server("http://h", "ollama", "host", transport=slow), "/", b"{}", Timeout())
    assert (await upstream.read_all(), slow.tries) == (b'{"done":true}', 3)


@pytest.mark.parametrize("timeout", [ai.Timeout(connect=1.2), 1.2, ai.Timeout(first_token=1.2)])
async def test_the_limits_of_the_call_bound_all_tries_and_pauses_together(timeout: Any) -> None:
    session = ai.Session("m", host=f"http://127.0.0.1:{free_port()}")
    # after 0, 0.1 and 0.4 seconds; the next would come at 1.3
    with pytest.raises(ai.HostUnreachable, match=r"cannot be reached in 3 tries \(connection refused\)"):
        await session.run("hi", timeout=timeout)


async def test_without_limits_there_are_still_not_endless_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSES", (0.01, 0.01, 0.01))
    session = ai.Session("m", host=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ai.HostUnreachable, match="in 4 tries"):
        await session.run("hi", timeout=ai.Timeout(connect=None, total=None))


async def test_who_leaves_amid_a_pause_is_not_kept() -> None:
    session = ai.Session("m", host=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await session.run("hi")


async def test_a_failed_handshake_is_not_tried_again() -> None:
    async with lines(b"this is no TLS\r\n", "https") as other:
        with pytest.raises(ai.HostUnreachable, match=r"cannot be reached \(.*SSL"):
            await ai.Session("m", host=other.url).run("hi")
        assert other.connections == 1


async def test_the_limit_for_connecting_ends_with_it() -> None:
    async def thinks(call: Call) -> None:
        await asyncio.sleep(0.4)
        await answers(call)

    async with serve(thinks) as upstream:
        session = ai.Session("m", host=upstream.url)
        for _ in range(2):  # on a new connection, and on that one kept
            assert (await session.run("hi", timeout=ai.Timeout(connect=0.2))).done
        assert upstream.connections == 1


async def test_waiting_for_a_free_connection_counts_as_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = asyncio.Event()

    async def takes(call: Call) -> None:
        taken.set()
        await for_ever(call)

    monkeypatch.setattr(client, "_LIMITS", httpx2.Limits(max_connections=1))
    async with serve(takes) as upstream:
        session = ai.Session("m", host=upstream.url)
        first = asyncio.create_task(session.run("hi"))
        await taken.wait()
        with pytest.raises(ai.InferenceTimeout, match=r"timeout\.connect"):
            await session.run("hi", timeout=ai.Timeout(connect=0.1))
        first.cancel()
        await upstream.gone.wait()
        assert len(upstream.requests) == 1


# kept connections


async def test_a_kept_connection_that_the_server_closed_is_replaced_unnoticed() -> None:
    async with serve(answers) as upstream:
        session = ai.Session("m", host=upstream.url)
        for _ in range(5):
            assert (await session.run("hi")).done
            await upstream.hang_up()
        assert (len(upstream.requests), upstream.connections) == (5, 5)


async def test_a_kept_connection_that_the_server_reset_is_replaced_unnoticed() -> None:
    async with serve(answers) as upstream:
        session = ai.Session("m", host=upstream.url)
        assert (await session.run("hi")).done
        for transport in list(upstream.open):
            transport.abort()
        await upstream.gone.wait()
        assert (await session.run("hi")).done
        assert (len(upstream.requests), upstream.connections) == (2, 2)


@pytest.mark.parametrize("how", ["close", "die"])
async def test_a_request_that_a_kept_connection_took_is_not_sent_again(how: str) -> None:
    async def second_is_fatal(call: Call) -> None:
        if call.request.json()["prompt"] == "second":
            getattr(call, how)()
        else:
            await answers(call)

    async with serve(second_is_fatal) as upstream:
        session = ai.Session("m", host=upstream.url)
        assert (await session.run("first")).done
        with pytest.raises(ai.HostUnreachable, match="without an answer"):
            await session.run("second")
        assert (len(upstream.requests), upstream.connections) == (2, 1)
        assert (await session.run("third")).done


async def test_a_request_that_was_taken_in_part_is_not_sent_again() -> None:
    async with lines(b"") as other:
        with pytest.raises(ai.HostUnreachable, match="without an answer"):
            await ai.Session("m", host=other.url).run("x" * 5_000_000)
        assert other.connections == 1


# what answers


async def test_what_does_not_speak_http_is_said_to_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lines(b"SSH-2.0-OpenSSH_9.2 sk-secret\r\n\r\n") as other:
        monkeypatch.setenv("AI_INFERENCE_API_HOST", other.url)
        with pytest.raises(ai.HostUnreachable, match=r"not HTTP \(.*SSH-2\.0") as raised:
            await ai.Session("m", api_key="sk-secret").run("hi")
        assert other.connections == 1
    assert other.url in str(raised.value)
    assert "AI_INFERENCE_API_HOST" in str(raised.value)
    assert "sk-secret" not in str(raised.value)


async def test_an_error_that_is_cut_amid_the_key_shows_no_part_of_it() -> None:
    async def fails(call: Call) -> None:
        call.head(401)
        call.piece(b"sk-secret!" * 819)
        call.piece(b"sk-secr")
        await for_ever(call)

    async with serve(fails) as upstream:
        with pytest.raises(ai.UpstreamError) as raised:
            await ai.Session("m", host=upstream.url, api_key="sk-secret").run("hi")
    assert raised.value.status == 401
    assert "sk-" not in raised.value.body
