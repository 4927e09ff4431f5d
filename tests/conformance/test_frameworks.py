"""Applications of the usual frameworks run unchanged as `app`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.running import Server, eventually, project, serving

FASTAPI = """
import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import (
    APIRouter, BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, UploadFile, WebSocket,
)
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

here = Path(__file__).parent


@asynccontextmanager
async def lifespan(app):
    app.state.started = 1
    print("the shop opens")
    yield {"shelf": ["tea"]}
    print("the shop closes")


app = FastAPI(title="Shop", lifespan=lifespan)
app.add_middleware(GZipMiddleware, minimum_size=1000)
app.add_middleware(CORSMiddleware, allow_origins=["https://page.example"], allow_headers=["x-own"])
sold = []
gates = {}


class Item(BaseModel):
    name: str
    price: float


class OutOfStock(Exception):
    pass


@app.exception_handler(OutOfStock)
async def out_of_stock(request, error):
    return JSONResponse({"sorry": str(error)}, 410)


@app.middleware("http")
async def stamp(request, call_next):
    response = await call_next(request)
    response.headers["x-stamp"] = request.url.path
    return response


def pager(limit: int = 10, skip: int = 0):
    return {"limit": limit, "skip": skip}


@app.get("/")
async def front(request: Request):
    return {"shelf": request.state.shelf, "started": app.state.started, "role": request.scope["auth"]["role"]}


@app.get("/items/{number}", name="item")
def item(number: int, page: Annotated[dict, Depends(pager)], x_token: Annotated[str, Header()] = ""):
    return {"number": number, **page, "token": x_token}


@app.post("/items", status_code=201)
async def create(item: Item, request: Request) -> Item:
    return item


@app.get("/links")
async def links(request: Request):
    return {"item": str(request.url_for("item", number=7)), "base": str(request.base_url)}


@app.get("/gone")
async def gone():
    raise OutOfStock("tea")


@app.get("/refused")
async def refused():
    raise HTTPException(403, "not you", headers={"x-why": "because"})


@app.get("/raises")
async def raises():
    raise RuntimeError("a secret of the shop")


@app.get("/long")
async def long():
    return "x" * 5000


@app.get("/stream")
async def stream(run: str):
    async def words():
        for word in ("one ", "two ", "three"):
            yield word
            await gates.setdefault(run, asyncio.Semaphore(0)).acquire()
    return StreamingResponse(words(), media_type="text/plain")


@app.post("/stream")
async def go_on(run: str):
    gates.setdefault(run, asyncio.Semaphore(0)).release()


async def sell(name):
    await gates.setdefault(name, asyncio.Semaphore(0)).acquire()
    sold.append(name)


@app.post("/sell/{name}", status_code=202)
async def sell_later(name: str, tasks: BackgroundTasks):
    tasks.add_task(sell, name)
    return {"sold": len(sold)}


@app.get("/sold")
async def show_sold():
    return sold


@app.post("/upload")
async def upload(file: UploadFile):
    return {"name": file.filename, "type": file.content_type, "size": len(await file.read())}


@app.websocket("/talk/{room}")
async def talk(ws: WebSocket, room: str):
    await ws.accept()
    await ws.send_json({"room": room, "shelf": ws.state.shelf, "path": ws.url.path})
    async for text in ws.iter_text():
        await ws.send_text(text.upper())


back = FastAPI(title="Back room")


@back.get("/who/{name}", name="who")
async def who(name: str, request: Request):
    return {"name": name, "path": request.url.path, "link": str(request.url_for("who", name="me"))}


@app.websocket("/members")
async def members(ws: WebSocket):
    raise HTTPException(401, "members only")


admin = APIRouter(prefix="/admin")


@admin.get("/stock")
async def stock():
    return "full"


app.include_router(admin)
app.mount("/back", back)
app.mount("/static", StaticFiles(directory=here / "static", html=True))
"""
STARLETTE = """
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser, requires
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

started = []


class Members(AuthenticationBackend):
    async def authenticate(self, conn):
        if name := conn.headers.get("x-member"):
            return AuthCredentials(["member"]), SimpleUser(name)


async def home(request):
    return JSONResponse({
        "url": str(request.url),
        "base": str(request.base_url),
        "link": str(request.url_for("users:show", name="ann")),
        "path": str(request.app.url_path_for("users:show", name="ann")),
        "client": request.client is not None,
    })


async def set_cookie(request):
    response = RedirectResponse(request.url_for("cookies"), 303)
    response.set_cookie("seen", "yes")
    response.set_cookie("other", "too")
    return response


async def cookies(request):
    return JSONResponse(request.cookies)


async def show(request):
    return PlainTextResponse(request.path_params["name"])


@requires("member", status_code=403)
async def members(request):
    return PlainTextResponse(f"{request.user.display_name} {request.auth.scopes}")


async def breaks(request):
    async def half():
        yield "half of it"
        raise RuntimeError("the pen broke")
    return StreamingResponse(half())


class Words(HTTPEndpoint):
    async def get(self, request):
        return PlainTextResponse("got")

    async def put(self, request):
        return PlainTextResponse(await request.body())


class Echo(WebSocketEndpoint):
    encoding = "json"

    async def on_connect(self, websocket):
        await websocket.accept(subprotocol="echo")

    async def on_receive(self, websocket, data):
        await websocket.send_json({"heard": data})


app = Starlette(
    routes=[
        Route("/", home),
        Route("/set", set_cookie),
        Route("/cookies", cookies, name="cookies"),
        Route("/slashed/", lambda request: PlainTextResponse("slashed")),
        Route("/members", members),
        Route("/words", Words),
        Route("/breaks", breaks),
        WebSocketRoute("/echo", Echo),
        Mount("/users", routes=[Route("/{name}", show, name="show")], name="users"),
    ],
    middleware=[Middleware(AuthenticationMiddleware, backend=Members())],
)
"""
LITESTAR = """
from contextlib import asynccontextmanager
from dataclasses import dataclass

from litestar import Litestar, Request, Router, get, post, websocket_listener
from litestar.di import Provide
from litestar.response import ServerSentEvent


@dataclass
class Note:
    title: str
    stars: int = 0


@asynccontextmanager
async def lifespan(app):
    app.state.notes = ["first"]
    print("the desk is laid")
    yield
    print("the desk is cleared")


@get("/")
async def index(request: Request) -> dict:
    return {"notes": request.app.state.notes, "path": request.url.path}


@get("/notes/{number:int}", name="note")
async def note(number: int, factor: int, limit: int = 5) -> dict:
    return {"number": number * factor, "limit": limit}


@post("/notes")
async def create(data: Note) -> Note:
    return Note(data.title, data.stars + 1)


@get("/events")
async def events() -> ServerSentEvent:
    return ServerSentEvent(iter(["one", "two"]))


@websocket_listener("/echo")
async def echo(data: str) -> str:
    return data.upper()


@get("/{name:str}")
async def greet(name: str) -> str:
    return f"Hello {name}"


async def factor() -> int:
    return 10


app = Litestar(
    [index, note, create, events, echo, Router("/greet", route_handlers=[greet])],
    lifespan=[lifespan],
    dependencies={"factor": Provide(factor)},
)
"""
BARE = """
import json


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["begun"] = ["yes"]
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await send({"type": "lifespan.shutdown.complete"})
        return
    told = json.dumps(scope, default=lambda value: value.decode("latin-1")).encode()
    if scope["type"] == "websocket":
        assert await receive() == {"type": "websocket.connect"}
        await send({"type": "websocket.accept", "headers": [(b"x-bare", b"yes")]})
        await send({"type": "websocket.send", "text": told.decode()})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"]})
        print("left with", message["code"])
        return
    types, body = {name: type(value).__name__ for name, value in scope.items()}, b""
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["query_string"] == b"silent":
        return
    scope["state"]["begun"].append("shared") if scope["method"] == "PUT" else None
    headers = [(b"content-type", b"application/json"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    await send({"type": "http.response.start", "status": 299, "headers": headers})
    answer = {"scope": json.loads(told), "types": types, "body": body.decode()}
    await send({"type": "http.response.body", "body": json.dumps(answer).encode(), "more_body": True})
    await send({"type": "http.response.body"})
"""
CALLABLES = {
    "object": """
class Application:
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"an object"})

app = Application()
""",
    "wrapped": """
from functools import partial

async def answer(text, scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})

app = partial(answer, b"a partial")
""",
}
CONFIG = """
[ai]
preload = []
[functions.shop]
max_workers = 1
cors = "function"
[functions.shut]
boot_s = 5
"""
SHUT = """
from contextlib import asynccontextmanager

from fastapi import FastAPI


@asynccontextmanager
async def lifespan(app):
    raise RuntimeError("the database is away")
    yield

app = FastAPI(lifespan=lifespan)
"""
FUNCTIONS = {
    "shop": FASTAPI,
    "shop/static/index.html": "<h1>Shop</h1>",
    "shop/static/style.css": "h1 { color: teal }",
    "site": STARLETTE,
    "notes": LITESTAR,
    "bare": BARE,
    "shut": SHUT,
    **CALLABLES,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(project(tmp_path_factory.mktemp("frameworks"), FUNCTIONS, CONFIG)) as server:
        yield server


def socket(server: Server, path: str, **options: Any) -> ClientConnection:
    headers = {"authorization": f"Bearer {server.token()}"}
    url = server.functions.replace("http", "ws", 1)
    connection: ClientConnection = connect(f"{url}/{path}", additional_headers=headers, proxy=None, **options)
    return connection


# --- FastAPI -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/shop", "/shop/"])
def test_fastapi_has_its_lifespan_state_and_the_claims(client: httpx2.Client, path: str) -> None:
    response = client.get(path)
    assert response.json() == {"shelf": ["tea"], "started": 1, "role": "anon"}
    assert response.headers["x-stamp"] == "/functions/v1/shop/"


def test_fastapi_reads_paths_queries_headers_and_dependencies(client: httpx2.Client) -> None:
    response = client.get("/shop/items/7?limit=3", headers={"x-token": "t"})
    assert response.json() == {"number": 7, "limit": 3, "skip": 0, "token": "t"}
    assert client.get("/shop/admin/stock").json() == "full"


def test_fastapi_validates_bodies(client: httpx2.Client) -> None:
    good = client.post("/shop/items", json={"name": "tea", "price": "2.5"})
    assert (good.status_code, good.json()) == (201, {"name": "tea", "price": 2.5})
    bad = client.post("/shop/items", json={"name": "tea"})
    assert (bad.status_code, bad.json()["detail"][0]["loc"]) == (422, ["body", "price"])
    assert client.get("/shop/items/seven").status_code == 422


def test_fastapi_answers_its_own_errors(client: httpx2.Client) -> None:
    gone = client.get("/shop/gone")
    assert (gone.status_code, gone.json()) == (410, {"sorry": "tea"})
    refused = client.get("/shop/refused")
    assert (refused.status_code, refused.headers["x-why"]) == (403, "because")
    missing = client.get("/shop/nothing")
    assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
    assert "x-relay-error" not in missing.headers
    assert client.delete("/shop/items").status_code == 405


def test_fastapi_tells_no_secrets_when_it_raises(client: httpx2.Client, server: Server) -> None:
    response = client.get("/shop/raises")
    assert response.status_code == 500
    assert "secret" not in response.text
    server.wait_for_log("RuntimeError: a secret of the shop")


def test_fastapi_builds_links_that_lead_back(client: httpx2.Client, server: Server) -> None:
    links = client.get("/shop/links").json()
    assert links == {"item": f"{server.functions}/shop/items/7", "base": f"{server.functions}/shop/"}
    assert client.get(links["item"]).json()["number"] == 7


def test_fastapi_shows_its_documentation(client: httpx2.Client) -> None:
    assert "'/functions/v1/shop/openapi.json'" in client.get("/shop/docs").text.replace('"', "'")
    assert client.get("/shop/redoc").status_code == 200
    schema = client.get("/shop/openapi.json").json()
    assert schema["servers"] == [{"url": "/functions/v1/shop"}]
    assert "/items/{number}" in schema["paths"]


def test_fastapi_streams_piece_by_piece(client: httpx2.Client) -> None:
    plain = {"accept-encoding": "identity"}  # the application's gzip would keep words back
    with client.stream("GET", "/shop/stream?run=1", headers=plain) as response:
        pieces = response.iter_raw()
        for word in (b"one ", b"two ", b"three"):
            assert next(pieces) == word
            assert client.post("/shop/stream?run=1").status_code == 200
        assert list(pieces) == []


def test_fastapi_works_on_after_its_answer_and_the_clients_leaving(
    client: httpx2.Client, server: Server
) -> None:
    with server.client() as buyer:
        assert buyer.post("/shop/sell/tea").json() == {"sold": 0}
    assert client.get("/shop/sold").json() == []
    client.post("/shop/stream?run=tea")
    eventually(lambda: client.get("/shop/sold").json() == ["tea"], "the background task's work")


def test_fastapi_takes_uploads(client: httpx2.Client) -> None:
    file = ("big.bin", b"x" * 3_000_000, "application/x-thing")
    answer = client.post("/shop/upload", files={"file": file}).json()
    assert answer == {"name": "big.bin", "type": "application/x-thing", "size": 3_000_000}
    assert client.post("/shop/upload", files={"other": file}).status_code == 422


def test_fastapi_packs_and_answers_cors_itself(client: httpx2.Client) -> None:
    origin = {"origin": "https://page.example"}
    packed = client.get("/shop/long", headers=origin)
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < 200
    assert packed.json() == "x" * 5000
    assert packed.headers.get_list("access-control-allow-origin") == ["https://page.example"]
    asked = {**origin, "access-control-request-method": "GET", "access-control-request-headers": "x-own"}
    preflight = client.options("/shop/long", headers=asked)
    assert preflight.status_code == 200
    assert "x-own" in preflight.headers["access-control-allow-headers"]
    stranger = client.get("/shop/long", headers={"origin": "https://stranger.example"})
    assert "access-control-allow-origin" not in stranger.headers


def test_fastapi_mounts_other_applications(client: httpx2.Client, server: Server) -> None:
    seen = client.get("/shop/back/who/ann").json()
    assert seen["name"] == "ann"
    assert seen["path"] == "/functions/v1/shop/back/who/ann"
    assert client.get(seen["link"]).json()["name"] == "me"
    schema = client.get("/shop/back/openapi.json").json()
    assert schema["servers"] == [{"url": "/functions/v1/shop/back"}]


def test_fastapi_serves_static_files(client: httpx2.Client) -> None:
    style = client.get("/shop/static/style.css")
    assert (style.text, style.headers["content-type"]) == ("h1 { color: teal }", "text/css; charset=utf-8")
    assert client.get("/shop/static/").text == "<h1>Shop</h1>"
    assert client.get("/shop/static", follow_redirects=True).text == "<h1>Shop</h1>"
    unchanged = client.get("/shop/static/style.css", headers={"if-none-match": style.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    part = client.get("/shop/static/style.css", headers={"range": "bytes=0-1"})
    assert (part.status_code, part.text) == (206, "h1")
    assert client.get("/shop/static/../index.py").status_code == 404
    assert client.get("/shop/static/%2e%2e/index.py").status_code == 404


def test_fastapi_talks_over_a_websocket(server: Server) -> None:
    with socket(server, "shop/talk/7") as talk:
        assert json.loads(talk.recv()) == {"room": "7", "shelf": ["tea"], "path": "/functions/v1/shop/talk/7"}
        for word in ("tea", "please 🎤"):
            talk.send(word)
            assert talk.recv() == word.upper()


@pytest.mark.parametrize(
    ("path", "status", "body"), [("nothing", 403, b""), ("members", 401, b'{"detail":"members only"}')]
)
def test_fastapi_refuses_a_websocket(server: Server, path: str, status: int, body: bytes) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        socket(server, f"shop/{path}").close()
    answer = refusal.value.response
    assert (answer.status_code, bytes(answer.body)) == (status, body)


def test_an_application_whose_startup_fails_does_not_boot(client: httpx2.Client, server: Server) -> None:
    response = client.get("/shut")
    assert (response.status_code, response.json()["code"]) == (503, "BOOT_ERROR")
    server.wait_for_log("RuntimeError: the database is away")


def test_a_lifespan_ends_after_the_drain(tmp_path: Path) -> None:
    functions = {
        name: source for name, source in FUNCTIONS.items() if name.partition("/")[0] in ("shop", "notes")
    }
    with serving(project(tmp_path, functions, CONFIG)) as server:
        server.wait_for_log("the shop opens")
        server.wait_for_log("the desk is laid")
        with server.client() as client, client.stream("GET", "/shop/stream?run=1") as response:
            pieces = response.iter_text()
            assert next(pieces) == "one "
            server.process.terminate()
            server.wait_for_log("finishing what is in flight")
            assert "the shop closes" not in server.log
    assert server.process.returncode == 0
    assert "the shop closes" in server.log
    assert "the desk is cleared" in server.log


# --- Starlette -----------------------------------------------------------------------------


def test_starlette_knows_where_it_is(client: httpx2.Client, server: Server) -> None:
    assert client.get("/site").json() == {
        "url": f"{server.functions}/site/",
        "base": f"{server.functions}/site/",
        "link": f"{server.functions}/site/users/ann",
        "path": "/users/ann",
        "client": True,
    }
    assert client.get("/site/users/ann").text == "ann"


def test_starlette_redirects_to_its_own_paths(client: httpx2.Client, server: Server) -> None:
    redirect = client.get("/site/slashed")
    assert (redirect.status_code, redirect.headers["location"]) == (307, f"{server.functions}/site/slashed/")
    assert client.get("/site/slashed", follow_redirects=True).text == "slashed"


def test_starlette_sets_cookies_and_reads_them(client: httpx2.Client) -> None:
    response = client.get("/site/set", follow_redirects=True)
    assert response.json() == {"seen": "yes", "other": "too"}


def test_starlette_authenticates_its_own_members(client: httpx2.Client) -> None:
    assert client.get("/site/members").status_code == 403
    assert client.get("/site/members", headers={"x-member": "ann"}).text == "ann ['member']"


def test_starlette_has_endpoints_for_requests_and_websockets(client: httpx2.Client, server: Server) -> None:
    assert client.get("/site/words").text == "got"
    assert client.put("/site/words", content="put").text == "put"
    assert client.post("/site/words").status_code == 405
    assert client.head("/site/words").headers["content-length"] == "3"
    with socket(server, "site/echo", subprotocols=["echo"]) as echo:
        assert echo.subprotocol == "echo"
        echo.send('{"n": 1}')
        assert json.loads(echo.recv()) == {"heard": {"n": 1}}


def test_a_stream_of_starlette_that_breaks_does_not_end_like_a_whole_one(
    client: httpx2.Client, server: Server
) -> None:
    with client.stream("GET", "/site/breaks") as response:
        pieces = response.iter_raw()
        assert next(pieces) == b"half of it"
        with pytest.raises(httpx2.RemoteProtocolError):
            next(pieces)
    server.wait_for_log("RuntimeError: the pen broke")


# --- Litestar ------------------------------------------------------------------------------


def test_litestar_routes_below_its_name(client: httpx2.Client) -> None:
    assert client.get("/notes").json() == {"notes": ["first"], "path": "/functions/v1/notes/"}
    assert client.get("/notes/notes/7?limit=2").json() == {"number": 70, "limit": 2}
    assert client.get("/notes/greet/ann").text == "Hello ann"
    missing = client.get("/notes/nothing")
    assert (missing.status_code, missing.json()["detail"]) == (404, "Not Found")


def test_litestar_validates_bodies(client: httpx2.Client) -> None:
    good = client.post("/notes/notes", json={"title": "tea", "stars": 4})
    assert (good.status_code, good.json()) == (201, {"title": "tea", "stars": 5})
    assert client.post("/notes/notes", json={"stars": "many"}).status_code == 400


def test_litestar_streams_events(client: httpx2.Client) -> None:
    response = client.get("/notes/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [line for line in response.text.split() if line != "data:"] == ["one", "two"]


def test_litestar_shows_its_documentation(client: httpx2.Client) -> None:
    assert "/notes/{number}" in client.get("/notes/schema/openapi.json").json()["paths"]
    assert client.get("/notes/schema").status_code == 200


def test_litestar_listens_on_a_websocket(server: Server) -> None:
    with socket(server, "notes/echo") as echo:
        echo.send("tea")
        assert echo.recv() == "TEA"


# --- bare ASGI -----------------------------------------------------------------------------


def test_a_bare_callable_gets_the_scope_of_the_specification(client: httpx2.Client, server: Server) -> None:
    response = client.post("/bare/a%2Fb/caf%C3%A9?x=1&y=%20", content="body", headers={"X-Own": "Value"})
    assert response.status_code == 299
    answer = response.json()
    scope = answer["scope"]
    host, _, port = server.url.removeprefix("http://").partition(":")
    assert scope["type"] == "http"
    assert scope["asgi"]["version"] == "3.0"
    assert scope["http_version"] == "1.1"
    assert (scope["method"], scope["scheme"]) == ("POST", "http")
    assert scope["path"] == "/functions/v1/bare/a/b/café"
    assert scope["raw_path"] == "/functions/v1/bare/a%2Fb/caf%C3%A9"
    assert scope["query_string"] == "x=1&y=%20"
    assert scope["root_path"] == "/functions/v1/bare"
    assert scope["server"] == [host, int(port)]
    assert scope["client"][0] == "127.0.0.1"
    assert scope["state"] == {"begun": ["yes"]}
    assert ["x-own", "Value"] in scope["headers"]
    assert answer["body"] == "body"


def test_a_bare_callable_gets_the_types_of_the_specification(client: httpx2.Client) -> None:
    types = client.get("/bare").json()["types"]
    texts = ("type", "http_version", "method", "scheme", "path", "root_path")
    assert {types[name] for name in texts} == {"str"}
    assert {types[name] for name in ("raw_path", "query_string")} == {"bytes"}
    assert {types[name] for name in ("asgi", "state")} == {"dict"}
    assert {types[name] for name in ("client", "server")} <= {"list", "tuple"}


@pytest.mark.parametrize(
    ("asked", "path", "raw_path"),
    [
        ("/bare", "/functions/v1/bare/", "/functions/v1/bare/"),
        ("/bare/", "/functions/v1/bare/", "/functions/v1/bare/"),
        ("/bare?x=1", "/functions/v1/bare/", "/functions/v1/bare/"),
        ("/bare//x", "/functions/v1/bare//x", "/functions/v1/bare//x"),
        ("/bare/bare", "/functions/v1/bare/bare", "/functions/v1/bare/bare"),
    ],
)
def test_the_bare_name_is_presented_with_a_slash(
    client: httpx2.Client, asked: str, path: str, raw_path: str
) -> None:
    scope = client.get(asked).json()["scope"]
    assert (scope["path"], scope["raw_path"]) == (path, raw_path)


def test_the_state_is_copied_for_each_request_but_not_what_is_in_it(client: httpx2.Client) -> None:
    client.put("/bare")
    assert client.get("/bare").json()["scope"]["state"] == {"begun": ["yes", "shared"]}


def test_headers_of_one_name_stay_apart(client: httpx2.Client) -> None:
    assert client.get("/bare").headers.get_list("set-cookie") == ["a=1", "b=2"]


def test_a_bare_callable_that_never_answers_is_an_error(client: httpx2.Client, server: Server) -> None:
    response = client.get("/bare?silent")
    assert (response.status_code, response.headers["sb-error-code"]) == (500, "WORKER_ERROR")


def test_a_bare_callable_talks_over_a_websocket(server: Server) -> None:
    with socket(server, "bare/a?x=1", subprotocols=["one", "two"]) as bare:
        assert bare.response is not None
        assert bare.response.headers["x-bare"] == "yes"
        scope = json.loads(bare.recv())
        assert (scope["type"], scope["scheme"], scope["path"]) == ("websocket", "ws", "/functions/v1/bare/a")
        assert (scope["root_path"], scope["query_string"]) == ("/functions/v1/bare", "x=1")
        assert scope["subprotocols"] == ["one", "two"]
        assert "websocket.http.response" in scope["extensions"]
        assert scope["state"]["begun"][0] == "yes"
        assert "method" not in scope
        bare.send(b"\x00\xff")
        assert bare.recv() == b"\x00\xff"
        bare.close(3001)
    server.wait_for_log("left with 3001")


@pytest.mark.parametrize(("name", "text"), [("object", "an object"), ("wrapped", "a partial")])
def test_anything_callable_is_an_application(client: httpx2.Client, name: str, text: str) -> None:
    assert client.get(f"/{name}").text == text
