"""A stand-in for the gateway of a self-hosted Supabase: it strips a prefix and passes bytes on.

As a program: `python kong.py PORT PREFIX HOST:PORT`; it prints the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys

_HEAD_BYTES = 64 * 1024
_NOT_HERE = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Kong:
    """One request per connection.

    Args:
        prefix: requests below it go to `host` and `port`, without it.
    """

    def __init__(self, prefix: str, host: str, port: int) -> None:
        self._prefix, self._host, self._port = prefix.encode(), host, port

    async def serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await client.readuntil(b"\r\n\r\n")
            method, path, rest = head.split(b" ", 2)
            if path.startswith(self._prefix + b"/"):
                await self._pass_on(method, path[len(self._prefix) :], rest, client, answer)
            else:
                answer.write(_NOT_HERE)
        answer.close()

    async def _pass_on(
        self,
        method: bytes,
        path: bytes,
        rest: bytes,
        client: asyncio.StreamReader,
        answer: asyncio.StreamWriter,
    ) -> None:
        upstream, request = await asyncio.open_connection(self._host, self._port)
        upgrade = re.search(rb"(?i)\r\nupgrade:", rest)
        rest = rest if upgrade else re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", rest)
        rest = re.sub(rb"(?i)(\r\nhost:)[^\r]*", rb"\1 kong", rest)
        closing = b"" if upgrade else b"connection: close\r\n"
        request.write(b"%s %s %s%s\r\n" % (method, path, rest[:-2], closing))
        sending = asyncio.create_task(_copy(client, request))
        try:
            await _copy(upstream, answer)
        finally:
            sending.cancel()
            request.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while piece := await source.read(_HEAD_BYTES):
        target.write(piece)
        await target.drain()


async def _main(port: str, prefix: str, upstream: str) -> None:
    host, _, upstream_port = upstream.rpartition(":")
    kong = Kong(prefix, host, int(upstream_port))
    server = await asyncio.start_server(kong.serve, "0.0.0.0", int(port))
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
