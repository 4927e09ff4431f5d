from __future__ import annotations

import asyncio
import time

import pytest

from bench.visitors import Crowd, Errand, Plan

pytestmark = pytest.mark.anyio


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Whole answers, endless ones, and connections that end instead."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if head.startswith(b"GET /never"):
                break
            if head.startswith(b"GET /endless"):
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"and so on " * 100)
            else:
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno")
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def outcomes(plan: Plan) -> dict[str, dict[str, int]]:
    report = await Crowd(plan).run()
    assert report.total == sum(sum(counts.values()) for counts in report.outcomes.values())
    return report.outcomes


async def test_each_errand_has_its_outcome() -> None:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        errands = [
            Errand(name="plain", port=port, payload=b"GET / HTTP/1.1\r\n\r\n"),
            Errand(name="stream", port=port, payload=b"GET /endless HTTP/1.1\r\n\r\n", manner="leave"),
            Errand(name="never", port=port, payload=b"GET /never HTTP/1.1\r\n\r\n"),
            Errand(name="talk", port=port, payload=b"GET / HTTP/1.1\r\n\r\n", manner="talk"),
        ]
        found = await outcomes(Plan(errands=errands, visitors=3, seconds=0.3))
    assert {name: set(counts) for name, counts in found.items()} == {
        "plain": {"404"},
        "stream": {"200"},
        "never": {"closed"},
        "talk": {"404"},
    }


async def test_they_come_at_the_rate_of_the_plan() -> None:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        errand = Errand(name="plain", port=port, payload=b"GET / HTTP/1.1\r\n\r\n")
        began = time.monotonic()
        found = await outcomes(Plan(errands=[errand], visitors=4, seconds=0.5, rate=40))
    assert time.monotonic() - began >= 0.4
    assert found["plain"]["404"] <= 20
