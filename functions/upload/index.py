"""Take files of any size."""

# Files in a form, with the keys of `eval "$(functions keys)"`:
#   curl http://localhost:54321/functions/v1/upload -H "Authorization: Bearer $ANON_KEY" \
#     -F file=@README.md -F file=@LICENSE
# 100 MB as a bare body, which is never in memory as a whole:
#   head -c 100000000 /dev/zero | curl -T - http://localhost:54321/functions/v1/upload \
#     -H "Authorization: Bearer $ANON_KEY"
#
# max_body_mb of [functions.upload] in supabase/config.toml says how large a body may be.

import hashlib
from collections.abc import AsyncIterator
from typing import Any

from runtime import HTTPException, Request, UploadFile


async def handler(request: Request) -> Any:
    if request.method == "PUT":
        return await measured(request.stream())
    form = await request.form()  # files over 1 MB wait on disk
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise HTTPException(400, "POST a form with files, or PUT a file's content")
    return [{"name": file.filename, **await measured(pieces(file))} for file in files]


async def pieces(file: UploadFile) -> AsyncIterator[bytes]:
    while piece := await file.read(65536):
        yield piece


async def measured(body: AsyncIterator[bytes]) -> dict[str, Any]:
    size, digest = 0, hashlib.sha256()
    async for piece in body:
        size += len(piece)
        digest.update(piece)
    return {"size": size, "sha256": digest.hexdigest()}
