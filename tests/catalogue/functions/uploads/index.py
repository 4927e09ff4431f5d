"""Takes a file in a form, of less than ten MB."""

from __future__ import annotations

import hashlib

from runtime import JSONResponse, Request, Response, UploadFile

LIMIT = 10_000_000


async def handler(request: Request) -> Response:
    file = (await request.form())["file"]
    assert isinstance(file, UploadFile)
    data = await file.read()
    if len(data) >= LIMIT:
        return Response("Error!", 500)
    return JSONResponse(
        {"name": file.filename, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}, 201
    )
