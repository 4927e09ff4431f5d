"""The functions that the clients visit, and the settings they run with."""

from __future__ import annotations

GREET = """
async def handler(request):
    return {"message": f"Hello {(await request.json())['name']}!"}
"""
MIRROR = """
async def handler(request):
    body = await request.body()
    return {
        "method": request.method,
        "path": request.url.path,
        "query": dict(request.query_params),
        "headers": dict(request.headers),
        "auth": request.auth,
        "body": body.decode("latin-1") if len(body) < 1000 else len(body),
    }
"""
FORM = """
async def handler(request):
    form = await request.form()
    found = {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            found[name] = value
        else:
            found[name] = [value.filename, value.content_type, (await value.read()).decode()]
    return found
"""
KINDS = """
import gzip

from runtime import Response

FORM = b'--x\\r\\ncontent-disposition: form-data; name="word"\\r\\n\\r\\nhello\\r\\n--x--\\r\\n'


async def handler(request):
    match request.url.path.removeprefix("/kinds/"):
        case "json":
            return {"list": [1, 2.5, None, True], "text": "naïve 🎤"}
        case "text":
            return "naïve 🎤"
        case "bytes":
            return bytes(range(256))
        case "pdf":
            return Response(b"%PDF-1.7", media_type="application/pdf")
        case "form":
            return Response(FORM, media_type="multipart/form-data; boundary=x")
        case "gzip":
            headers = {"content-encoding": "gzip"}
            return Response(gzip.compress(b"unpacked"), headers=headers, media_type="text/plain")
        case "nothing":
            return None
        case "redirect":
            return Response(status_code=307, headers={"location": "/functions/v1/kinds/json"})
"""
TOKENS = """
import asyncio

from runtime import StreamingResponse

gates = {}


async def handler(request):
    gate = gates.setdefault(request.query_params["run"], asyncio.Semaphore(0))
    if request.method == "POST":
        gate.release()
        return None

    async def words():
        for word in ("one", "two", "three 🎤"):
            yield f"data: {word}\\n\\n"
            await gate.acquire()  # the next word exists only once the reader of this one asked for it

    return StreamingResponse(words(), media_type="text/event-stream")
"""
FAILS = """
from runtime import HTTPException, JSONResponse


async def handler(request):
    match request.url.path.removeprefix("/fails/"):
        case "teapot":
            return JSONResponse({"error": "no coffee here"}, 418)
        case "unavailable":
            return JSONResponse({"error": "try tomorrow"}, 503)
        case "raised":
            raise HTTPException(409, "two of a kind")
    raise RuntimeError("a secret of the house")
"""
SLOW = """
import asyncio

cancelled = 0


async def handler(request):
    global cancelled
    if request.method == "GET":
        return {"cancelled": cancelled}
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        cancelled += 1
        raise
"""
OWN_CORS = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route


async def show(request):
    return JSONResponse({"x-tour": request.headers.get("x-tour")}, headers={"x-answer": "42"})


cors = Middleware(
    CORSMiddleware,
    allow_origins=["*"],
    allow_methods=["*"],
    allow_headers=["*"],
    expose_headers=["x-answer"],
)
app = Starlette(routes=[Route("/", show, methods=["POST"])], middleware=[cors])
"""
SOCKET = """
async def handler(request):
    return "only WebSockets here"


async def websocket(ws):
    await ws.accept()
    await ws.send_json({"role": ws.scope["auth"].get("role"), "query": dict(ws.query_params)})
    async for text in ws.iter_text():
        await ws.send_text(text.upper())
"""
FILES = """
import hashlib
from pathlib import Path

from starlette.responses import FileResponse

book = Path(__file__).with_name("book.txt")


async def handler(request):
    if request.method in ("GET", "HEAD"):
        return FileResponse(book)
    digest, size = hashlib.sha256(), 0
    async for piece in request.stream():
        digest.update(piece)
        size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}
"""
BOOK = "It was the best of times, it was the worst of times.\n"

FUNCTIONS = {
    "greet": GREET,
    "mirror": MIRROR,
    "form": FORM,
    "kinds": KINDS,
    "tokens": TOKENS,
    "fails": FAILS,
    "slow": SLOW,
    "own-cors": OWN_CORS,
    "socket": SOCKET,
    "files": FILES,
    "files/book.txt": BOOK,
    "public": MIRROR,
    "public-tokens": TOKENS,
    "small": MIRROR,
    "broken": "this is no Python",
}
# One worker where a function remembers something from one request to the next.
CONFIG = """
[ai]
preload = []
[functions.tokens]
max_workers = 1
[functions.slow]
max_workers = 1
[functions.own-cors]
cors = "function"
[functions.public]
verify_jwt = false
[functions.public-tokens]
verify_jwt = false
max_workers = 1
[functions.small]
max_body_mb = 0.1
"""
PUBLISHABLE = "sb_publishable_for_the_tour"
