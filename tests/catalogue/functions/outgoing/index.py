"""Calls others."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any

import httpx2

from runtime import JSONResponse, Request


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"this is no TLS record, whatever one takes it for")
    await writer.drain()
    writer.close()


async def fixed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmeow")
    await writer.drain()
    writer.close()


async def ask(url: str) -> httpx2.Response:
    async with httpx2.AsyncClient(verify=False, timeout=5) as client:
        return await client.get(url)


async def broken_tls() -> Any:
    async with await asyncio.start_server(garbage, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        try:
            await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())
        except ssl.SSLError as error:
            return {"error": "SSLError", "reason": error.reason}
    return None


async def client() -> Any:
    async with await asyncio.start_server(fixed, "127.0.0.1", 0) as server:
        answer = await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    return {"version": answer.http_version, "text": answer.text}


async def give_up() -> Any:
    headers = {"authorization": f"Bearer {os.environ['SUPABASE_ANON_KEY']}"}
    url = f"{os.environ['SUPABASE_URL']}/functions/v1/sleeper/for?seconds=30"
    async with httpx2.AsyncClient(headers=headers, timeout=0.2) as client:
        try:
            await client.get(url)
        except httpx2.TimeoutException as error:
            return JSONResponse({"msg": type(error).__name__}, 500)
    return None


async def handler(request: Request) -> Any:
    match request.url.path.rpartition("/")[2]:
        case "tls":
            return await broken_tls()
        case "client":
            return await client()
        case _:
            return await give_up()
