"""Answers its preflights itself."""

from __future__ import annotations

from runtime import Request, Response

ALLOWED = {
    "access-control-allow-origin": "*",
    "access-control-allow-headers": "authorization, x-client-info, apikey",
}


async def handler(request: Request) -> Response:
    return Response("ok" if request.method == "OPTIONS" else "called", headers=ALLOWED)
