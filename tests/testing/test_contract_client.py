"""One suite for the real server and for `FunctionClient`: a client cannot tell them apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.conformance.wire import is_whole
from tests.running import eventually, project, serving
from tests.testing.peers import Client, Open, logged, opener

PROBE = '''
"""Does what its path says."""
import asyncio
import dataclasses
import os
import time
from pathlib import Path

import util
import _shared.words

from runtime import HTTPException, JSONResponse, Response, StreamingResponse, wait_until

background = []
gates = {}
state = {"started": 0, "left": 0}

@dataclasses.dataclass
class Point:
    x: int
    y: int

async def startup():
    state["started"] += 1

async def handler(request):
    what = request.url.path.removeprefix("/probe").strip("/")
    return await globals().get("do_" + what.split("/")[0].replace("-", "_"), do_where)(request)

async def do_where(request):
    return {
        "path": request.url.path, "query": dict(request.query_params),
        "root_path": request.scope["root_path"], "raw_path": request.scope["raw_path"].decode(),
        "method": request.method,
        "client": request.client.host, "scheme": request.url.scheme,
    }

async def do_returns(request):
    kinds = {
        "dict": {"ä": 1}, "list": [1, 2], "number": 1.5, "bool": True, "dataclass": Point(1, 2),
        "str": "Grüße", "bytes": b"\\x00\\xff", "none": None, "response": Response("x", 418, {"x-own": "1"}),
        "generator": (piece for piece in ["a", "b"]), "object": object(), "status": Response("", 999),
    }
    return kinds[request.query_params["kind"]]

async def do_raises(request):
    raise ValueError("secret detail")

async def do_exits(request):
    raise SystemExit(3)

async def do_http_exception(request):
    raise HTTPException(409, "taken", {"x-own": "1"})

async def do_json(request):
    return await request.json()

async def do_form(request):
    form = await request.form()
    upload = form["file"]
    return {"name": form["name"], "file": upload.filename, "bytes": len(await upload.read())}

async def do_body(request):
    total = 0
    async for piece in request.stream():
        total += len(piece)
    return {"bytes": total}

async def do_auth(request):
    return {key: request.auth.get(key) for key in ("role", "sub")}

async def do_environment(request):
    home = Path(os.environ["HOME"])
    return {
        "names": sorted(name for name in os.environ if not name.startswith("PYTEST_")),
        "own": os.environ["OWN"],
        "slug": os.environ["SUPABASE_FUNCTION_SLUG"], "home": home.is_dir(), "zone": time.tzname[0],
        "tmp": os.environ["TMPDIR"] == str(home),
    }

async def do_file(request):
    return Path(__file__).with_name("page.html").read_text()

async def do_imports(request):
    return {"util": util.NAME, "shared": _shared.words.WORD, "started": state["started"]}

async def do_stream(request):
    async def pieces():
        for number in range(3):
            gates[number] = asyncio.Event()
            yield f"{number}"
            await gates[number].wait()
    return StreamingResponse(pieces(), media_type="text/plain")

async def do_release(request):
    gates[int(request.query_params["piece"])].set()

async def do_breaks(request):
    async def pieces():
        yield "a"
        raise ValueError("secret detail")
    return pieces()

async def do_endless(request):
    async def pieces():
        try:
            while True:
                yield "x"
                await asyncio.sleep(0.005)
        finally:
            state["left"] += 1
    return pieces()

async def do_left(request):
    return state["left"]

async def do_later(request):
    async def work():
        await asyncio.sleep(0)
        background.append(1)
    wait_until(work())
    return "soon"

async def do_worked(request):
    return len(background)

async def do_fails_later(request):
    async def work():
        raise ValueError("in the background")
    wait_until(work())

async def do_prints(request):
    import logging
    logging.getLogger("mine").warning("a warning of mine")

async def websocket(ws):
    if ws.url.path.endswith("/refuses"):
        await ws.close(4403)
        return
    if ws.url.path.endswith("/raises"):
        raise ValueError("secret detail")
    await ws.accept("chat" if "chat" in ws.scope["subprotocols"] else None)
    while True:
        text = await ws.receive_text()
        if text == "bye":
            await ws.close(4000, "as asked")
            return
        if text == "fail":
            raise ValueError("secret detail")
        await ws.send_text(f"{text} {ws.scope['auth'].get('role')}")
'''
APP = """
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, WebSocketRoute

@asynccontextmanager
async def lifespan(app):
    yield {"greeting": "hello"}

async def root(request):
    return PlainTextResponse(f"{request.state.greeting} at {request.url.path}")

async def item(request):
    return JSONResponse({"id": request.path_params["id"], "url": str(request.url_for("item", id=7).path)})

async def echo(ws):
    await ws.accept()
    await ws.send_text(await ws.receive_text())
    await ws.close()

app = Starlette(
    routes=[Route("/", root), Route("/items/{id}", item, name="item"), WebSocketRoute("/echo", echo)],
    lifespan=lifespan,
)
"""
CONFIG = """
[ai]
preload = []

[functions.open]
verify_jwt = false

[functions.own-cors]
cors = "function"
"""
SOURCES = {
    "probe": PROBE,
    "probe/util.py": 'NAME = "a module beside it"\n',
    "probe/page.html": "<p>static</p>\n",
    "probe/.env": "OWN=its own\n",
    "_shared/words.py": 'WORD = "shared"\n',
    "app": APP,
    "open": "async def handler(request):\n    return request.auth\n",
    "own-cors": "async def handler(request):\n"
    "    from runtime import Response\n"
    "    return Response(headers={'access-control-allow-origin': 'https://mine.example'})\n",
    "broken": "raise ValueError('a mistake at import')\n",
    "nothing": "x = 1\n",
    "wont-start": "async def startup():\n    raise ValueError('not today')\n\n"
    "async def handler(request):\n    return 1\n",
    "threaded": "def handler(request):\n    return {'read': request.method}\n",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("project"), SOURCES, CONFIG)


@pytest.fixture(scope="module", params=["server", "kit"])
def open_client(root: Path, request: pytest.FixtureRequest) -> Iterator[Open]:
    if request.param == "kit":
        yield opener(root, None)
        return
    with serving(root) as server:
        yield opener(root, server)


@pytest.fixture
def client(open_client: Open) -> Iterator[Client]:
    with open_client("probe") as client:
        yield client


@pytest.mark.parametrize(
    ("kind", "status", "content_type", "body"),
    [
        ("dict", 200, "application/json", '{"ä":1}'.encode()),
        ("list", 200, "application/json", b"[1,2]"),
        ("number", 200, "application/json", b"1.5"),
        ("bool", 200, "application/json", b"true"),
        ("dataclass", 200, "application/json", b'{"x":1,"y":2}'),
        ("str", 200, "text/plain; charset=utf-8", "Grüße".encode()),
        ("bytes", 200, "application/octet-stream", b"\x00\xff"),
        ("none", 204, None, b""),
        ("response", 418, None, b"x"),
        ("generator", 200, "text/plain; charset=utf-8", b"ab"),
    ],
)
def test_what_a_handler_returns_is_sent_alike(
    client: Client, kind: str, status: int, content_type: str | None, body: bytes
) -> None:
    answer = client.get("/returns", params={"kind": kind})
    assert (answer.status_code, answer.headers.get("content-type"), answer.content) == (
        status,
        content_type,
        body,
    )
    assert answer.headers["sb-request-id"]


@pytest.mark.parametrize("kind", ["object", "status"])
def test_what_is_no_response_is_invalid(client: Client, kind: str) -> None:
    answer = client.get("/returns", params={"kind": kind})
    is_whole(answer.json(), answer.status_code, "INVALID_RESPONSE", answer.headers)
    assert "x-relay-error" not in answer.headers


@pytest.mark.parametrize("what", ["/raises", "/exits"])
def test_what_a_handler_raises_is_in_the_log_alone(client: Client, what: str) -> None:
    answer = client.get(what)
    is_whole(answer.json(), answer.status_code, "WORKER_ERROR", answer.headers)
    assert "secret detail" not in answer.text
    logged(client, f"[{answer.headers['sb-request-id']}] Traceback")
    logged(client, "functions/probe/index.py")


def test_an_http_exception_is_its_answer(client: Client) -> None:
    answer = client.post("/http-exception")
    assert (answer.status_code, answer.json(), answer.headers["x-own"]) == (409, {"message": "taken"}, "1")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff"])
def test_a_body_that_is_no_json_is_the_clients_mistake(client: Client, body: bytes) -> None:
    answer = client.post("/json", content=body)
    is_whole(answer.json(), answer.status_code, "BAD_REQUEST", answer.headers)


@pytest.mark.parametrize(
    ("path", "seen", "raw"),
    [
        ("/", "/probe", "/probe"),
        ("/a/b", "/probe/a/b", "/probe/a/b"),
        ("/a%2Fb", "/probe/a/b", "/probe/a%2Fb"),
        ("/%C3%A4", "/probe/ä", "/probe/%C3%A4"),
    ],
)
def test_paths_are_those_of_the_contract(client: Client, path: str, seen: str, raw: str) -> None:
    answer = client.put(path, params={"q": "1"}).json()
    assert answer == {
        "path": seen,
        "raw_path": raw,
        "query": {"q": "1"},
        "root_path": "/functions/v1",
        "method": "PUT",
        "client": "127.0.0.1",
        "scheme": "http",
    }


def test_head_has_the_length_and_no_body(client: Client) -> None:
    answer = client.head("/returns", params={"kind": "str"})
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "7")


def test_forms_and_files_arrive(client: Client) -> None:
    answer = client.post("/form", data={"name": "Ada"}, files={"file": ("a.bin", b"\x00" * 5000)})
    assert answer.json() == {"name": "Ada", "file": "a.bin", "bytes": 5000}


def test_a_streamed_body_arrives(client: Client) -> None:
    answer = client.post("/body", content=(b"x" * 100_000 for _ in range(7)))
    assert answer.json() == {"bytes": 700_000}


def test_the_claims_are_those_of_the_token(client: Client) -> None:
    assert client.get("/auth").json() == {"role": "anon", "sub": None}


@pytest.mark.parametrize("sent", [{"authorization": ""}, {"authorization": "Bearer nonsense"}])
def test_without_a_valid_token_the_function_is_not_run(client: Client, sent: dict[str, str]) -> None:
    answer = client.get("/auth", headers=sent)
    is_whole(answer.json(), answer.status_code, answer.json()["code"], answer.headers)
    assert answer.status_code == 401
    assert answer.headers["x-relay-error"] == "true"


def test_a_function_without_checks_gets_no_claims(open_client: Open) -> None:
    with open_client("open") as client:
        del client.headers["authorization"]
        answer = client.get("/")
    assert (answer.status_code, answer.json()) == (200, {})


def test_its_environment_is_its_own(client: Client) -> None:
    answer = client.get("/environment").json()
    assert (answer["own"], answer["slug"], answer["zone"]) == ("its own", "probe", "UTC")
    assert answer["home"]
    assert answer["tmp"]
    assert answer["names"] == [
        *("HOME", "LANG", "OWN", "PATH", "SB_EXECUTION_ID", "SUPABASE_ANON_KEY", "SUPABASE_FUNCTION_SLUG"),
        *("SUPABASE_PUBLISHABLE_KEYS", "SUPABASE_SECRET_KEYS", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_URL"),
        *("TMPDIR", "TZ"),
    ]


def test_its_files_modules_and_hooks_are_there(client: Client) -> None:
    assert client.get("/file").text == "<p>static</p>\n"
    assert client.get("/imports").json() == {"util": "a module beside it", "shared": "shared", "started": 1}


def test_a_preflight_is_answered_for_it(client: Client) -> None:
    asked = {"origin": "https://page.example", "access-control-request-method": "POST"}
    answer = client.request("OPTIONS", "/", headers=asked | {"authorization": ""})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-client-info" in answer.headers["access-control-allow-headers"]
    assert client.get("/", headers={"origin": "https://page.example"}).headers[
        "access-control-allow-origin"
    ] == ("*")


def test_a_preflight_is_its_own_where_it_says_so(open_client: Open) -> None:
    asked = {"origin": "https://page.example", "access-control-request-method": "POST"}
    with open_client("own-cors") as client:
        answer = client.request("OPTIONS", "/", headers=asked | {"authorization": ""})
    assert answer.headers["access-control-allow-origin"] == "https://mine.example"


def test_a_piece_is_seen_before_the_next_exists(client: Client) -> None:
    with client.stream("GET", "/stream") as answer:
        pieces = answer.iter_text()
        for number in range(3):
            assert next(pieces) == str(number)
            assert client.post("/release", params={"piece": number}).status_code == 204
        assert next(pieces, None) is None


def test_a_stream_that_breaks_does_not_end_like_a_whole_one(client: Client) -> None:
    with client.stream("GET", "/breaks") as answer:
        pieces = answer.iter_text()
        assert next(pieces) == "a"
        with pytest.raises(httpx2.RemoteProtocolError):
            next(pieces)
    logged(client, "secret detail")


def test_leaving_a_stream_cancels_it(client: Client) -> None:
    before = client.get("/left").json()
    with client.stream("GET", "/endless") as answer:
        assert next(answer.iter_text())[0] == "x"
    eventually(lambda: client.get("/left").json() == before + 1, "the generator was closed")


def test_a_head_ends_the_stream_it_does_not_want(client: Client) -> None:
    left = client.get("/left").json()
    response = client.head("/endless")
    assert (response.status_code, response.content) == (200, b"")
    eventually(lambda: client.get("/left").json() == left + 1, "the generator's end")


def test_work_outlives_the_response(client: Client) -> None:
    before = client.get("/worked").json()
    assert client.get("/later").text == "soon"
    eventually(lambda: client.get("/worked").json() == before + 1, "the work was done")


def test_work_that_fails_is_logged_with_its_request(client: Client) -> None:
    answer = client.get("/fails-later")
    logged(client, f"[{answer.headers['sb-request-id']}] work given to wait_until failed")
    logged(client, "ValueError: in the background")


def test_a_websocket_echoes_and_closes_as_the_function_says(client: Client) -> None:
    with client.websocket("/", subprotocols=("chat",)) as ws:
        assert ws.subprotocol == "chat"
        ws.send("hello")
        assert ws.recv() == "hello anon"
        ws.send("bye")
        with pytest.raises(ConnectionClosed):
            ws.recv()
        assert (ws.close_code, ws.close_reason) == (4000, "as asked")


def test_a_websocket_whose_function_fails_is_closed_with_1011(client: Client) -> None:
    with client.websocket("/") as ws:
        ws.send("fail")
        with pytest.raises(ConnectionClosed):
            ws.recv()
        assert ws.close_code == 1011


@pytest.mark.parametrize(("path", "status"), [("/refuses", 403), ("/raises", 500)])
def test_a_websocket_that_is_refused_has_a_status(client: Client, path: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused, client.websocket(path):
        pass
    assert refused.value.response.status_code == status


def test_a_websocket_needs_a_token_too(client: Client) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        client.websocket("/", headers={"authorization": "Bearer x"}),
    ):
        pass
    assert refused.value.response.status_code == 401


def test_an_app_runs_at_its_place(open_client: Open) -> None:
    with open_client("app") as client:
        assert client.get("/").text == "hello at /functions/v1/app/"
        assert client.get("/items/3").json() == {"id": "3", "url": "/functions/v1/app/items/7"}
        assert client.get("/nowhere").status_code == 404
        with client.websocket("/echo") as ws:
            ws.send("hi")
            assert ws.recv() == "hi"


def test_a_plain_def_runs_on_a_thread(open_client: Open) -> None:
    with open_client("threaded") as client:
        assert client.delete("/").json() == {"read": "DELETE"}


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("broken", "ValueError: a mistake at import"),
        ("nothing", "exports neither"),
        ("wont-start", "ValueError: not today"),
    ],
)
def test_one_that_does_not_boot_says_so_and_tells_the_log_why(
    open_client: Open, function: str, why: str
) -> None:
    with open_client(function) as client:
        answer = client.get("/")
        is_whole(answer.json(), answer.status_code, "BOOT_ERROR", answer.headers)
        assert answer.headers["x-relay-error"] == "true"
        assert why not in answer.text
        logged(client, why)


def test_what_is_none_of_its_addresses_is_not_found(client: Client) -> None:
    base = client.function_url.removesuffix("/probe")
    for path in (f"{base}/prob", f"{base}/probe2", base.removesuffix("/v1")):
        answer = client.get(path)
        is_whole(answer.json(), answer.status_code, "NOT_FOUND", answer.headers)
    assert client.get(f"{base.removesuffix('/functions/v1')}/_internal/health").json() == {"message": "ok"}


def test_another_host_name_is_refused(client: Client) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code in (403, 404, 421, 400)


def test_a_head_that_is_too_large_is_refused(client: Client) -> None:
    answer = client.get("/", headers={"x-large": "x" * 70_000})
    assert answer.status_code == 431
