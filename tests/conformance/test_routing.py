"""Which requests reach a function, and what path it sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.conformance.wire import Wire, is_whole
from tests.running import Server, eventually, project, serving

ECHO = """
async def handler(request):
    return {
        "method": request.method,
        "path": request.url.path,
        "query": request.url.query,
        "scope_path": request.scope["path"],
        "raw_path": request.scope["raw_path"].decode(),
        "root_path": request.scope["root_path"],
        "body": (await request.body()).decode(),
    }
"""
NAMED = "async def handler(request): return 'the function {name}'"
APP = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

async def show(request):
    return JSONResponse({
        "route": request.scope["endpoint"].__name__,
        "parameters": request.path_params,
        "path": request.scope["path"],
        "raw_path": request.scope["raw_path"].decode(),
        "root_path": request.scope["root_path"],
        "link": str(request.url_for("item", number=7)),
        "url": str(request.url),
    })

app = Starlette(routes=[
    Route("/", show),
    Route("/items/{number:int}", show, name="item", methods=["GET", "POST"]),
    Mount("/deep", routes=[Route("/{rest:path}", show)]),
])
"""
FUNCTIONS = {
    "hello": ECHO,
    "tasks": APP,
    "off": NAMED.format(name="off"),
    "queue": NAMED.format(name="queue"),
    "http": NAMED.format(name="http"),
    "With-Dash_9": NAMED.format(name="With-Dash_9"),
    "_shared/index.py": NAMED.format(name="_shared"),
    ".git/index.py": NAMED.format(name=".git"),
}
CONFIG = """
[ai]
preload = []
[functions.off]
enabled = false
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = project(tmp_path_factory.mktemp("routing"), FUNCTIONS, CONFIG)
    elsewhere = root / "supabase" / "functions" / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "index.py").write_text(NAMED.format(name="elsewhere"))
    with serving(root) as server:
        yield server


# --- every method, every sub-path ----------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "TRACE"])
def test_every_method_reaches_the_function(client: httpx2.Client, method: str) -> None:
    response = client.request(method, "/hello", content=b"a body")
    assert response.status_code == 200
    assert (response.json()["method"], response.json()["body"]) == (method, "a body")


def test_head_reaches_the_function_and_is_answered_without_a_body(wire: Wire) -> None:
    wire.ask("HEAD", "/functions/v1/hello")
    answer = wire.answer(bodiless=True)
    assert answer.status == 200
    assert int(answer.headers["content-length"]) > 0
    wire.ask("GET", "/functions/v1/hello")  # were there a body, this answer would begin with it
    assert wire.answer().json()["method"] == "GET"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/hello", "/hello"),
        ("/hello/", "/hello/"),
        ("/hello/7", "/hello/7"),
        ("/hello/a/b/c", "/hello/a/b/c"),
        ("/hello//twice", "/hello//twice"),
        ("/hello/..", "/hello/.."),
        ("/hello/../tasks", "/hello/../tasks"),
        ("/hello/%2e%2e/tasks", "/hello/../tasks"),
        ("/hello/a%2Fb", "/hello/a/b"),
        ("/hello/caf%C3%A9", "/hello/café"),
        ("/hello/functions/v1/hello", "/hello/functions/v1/hello"),
        ("/hello/" + "x" * 4000, "/hello/" + "x" * 4000),
    ],
)
def test_a_handler_sees_the_path_with_its_name_and_without_the_prefix(
    wire: Wire, target: str, path: str
) -> None:
    wire.ask("GET", "/functions/v1" + target)
    seen = wire.answer().json()
    assert seen["scope_path"] == path
    assert seen["raw_path"] == target
    assert seen["root_path"] == "/functions/v1"


def test_a_handler_sees_path_and_query_as_the_client_sent_them(wire: Wire) -> None:
    wire.ask("GET", "/functions/v1/hello/7?x=1&y=a%20b&x=2")
    seen = wire.answer().json()
    assert (seen["path"], seen["query"]) == ("/hello/7", "x=1&y=a%20b&x=2")


def test_a_target_in_absolute_form_is_understood(wire: Wire) -> None:
    wire.ask("GET", "http://localhost/functions/v1/hello/7?x=1")
    seen = wire.answer().json()
    assert (seen["path"], seen["query"]) == ("/hello/7", "x=1")


# --- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["queue", "http", "With-Dash_9", "elsewhere"])
def test_a_function_may_have_any_name_of_the_pattern_and_live_in_either_folder(
    client: httpx2.Client, name: str
) -> None:
    assert client.get(f"/{name}").text == f"the function {name}"


NOWHERE = {
    "no such function": "/functions/v1/nope",
    "disabled": "/functions/v1/off",
    "shared folder": "/functions/v1/_shared",
    "hidden folder": "/functions/v1/.git",
    "the config's folder": "/functions/v1/supabase",
    "parent": "/functions/v1/..",
    "encoded parent": "/functions/v1/%2e%2e",
    "parent and back": "/functions/v1/../v1/hello",
    "this folder": "/functions/v1/./hello",
    "encoded slash": "/functions/v1/hello%2f..",
    "encoded slash before": "/functions/v1/%2fhello",
    "double slash": "/functions/v1//hello",
    "encoded letter": "/functions/v1/h%65llo",
    "doubly encoded letter": "/functions/v1/h%2565llo",
    "space behind": "/functions/v1/hello%20",
    "line end": "/functions/v1/hello%0d%0a",
    "NUL": "/functions/v1/%00",
    "NUL behind": "/functions/v1/hello%00",
    "wrong case": "/functions/v1/Hello",
    "upper case": "/functions/v1/HELLO",
    "long": "/functions/v1/" + "a" * 4096,
    "longer by a letter": "/functions/v1/hellos",
    "Cyrillic е": "/functions/v1/h%D0%B5llo",
    "full width": "/functions/v1/%EF%BD%88ello",
    "zero width space": "/functions/v1/hello%E2%80%8B",
    "not UTF-8": "/functions/v1/hell%FF",
    "broken escape": "/functions/v1/hello%",
    "parameter": "/functions/v1/hello;x=1",
    "backslash": "/functions/v1/hello%5c",
    "file": "/functions/v1/hello.py",
    "entry file's name": "/functions/v1/index",
    "constructor": "/functions/v1/constructor",
    "__proto__": "/functions/v1/__proto__",
    "__init__": "/functions/v1/__init__",
    "no name": "/functions/v1/",
    "prefix alone": "/functions/v1",
    "root": "/",
    "without prefix": "/hello",
    "other version": "/functions/v2/hello",
    "prefix in upper case": "/FUNCTIONS/V1/hello",
    "encoded prefix": "/functions%2fv1/hello",
    "prefix twice": "/functions/v1/functions/v1/hello",
    "internal page": "/_internal/nope",
}


@pytest.mark.parametrize("case", NOWHERE)
def test_everything_else_is_a_404_with_the_contract_s_body(wire: Wire, case: str) -> None:
    wire.ask("GET", NOWHERE[case])
    answer = wire.answer()
    is_whole(answer.json(), answer.status, "NOT_FOUND", answer.headers)
    assert answer.headers["x-relay-error"] == "true"


def test_an_unknown_name_is_a_404_before_anybody_asks_for_a_key(wire: Wire) -> None:
    wire.ask("GET", "/functions/v1/nope", key=False)
    assert wire.answer().status == 404


@pytest.mark.parametrize("byte", [b"\0", b"\x01", b" ", b"\x7f", b"\xff"])
def test_a_raw_byte_that_no_target_has_is_refused_and_harms_nobody(
    dial: Callable[[], Wire], byte: bytes
) -> None:
    wire = dial()
    wire.ask("GET", b"/functions/v1/hel" + byte + b"lo")
    assert wire.answer().status in (400, 404)
    after = dial()
    after.ask("GET", "/functions/v1/hello")
    assert after.answer().status == 200


# --- applications --------------------------------------------------------------------------


def test_an_application_s_own_routes_start_at_the_root(client: httpx2.Client, server: Server) -> None:
    seen = client.get("/tasks/items/5?x=1").json()
    assert seen["parameters"] == {"number": 5}
    assert seen["path"] == seen["raw_path"] == "/functions/v1/tasks/items/5"
    assert seen["root_path"] == "/functions/v1/tasks"
    assert seen["url"] == f"{server.functions}/tasks/items/5?x=1"


@pytest.mark.parametrize("target", ["/tasks", "/tasks/", "/tasks?x=1"])
def test_the_bare_name_is_presented_with_a_slash_and_never_redirected(
    client: httpx2.Client, target: str
) -> None:
    response = client.get(target, follow_redirects=False)
    assert response.status_code == 200
    assert response.json()["path"] == "/functions/v1/tasks/"


def test_the_links_of_an_application_lead_back_to_it(client: httpx2.Client, server: Server) -> None:
    link = client.get("/tasks").json()["link"]
    assert link == f"{server.functions}/tasks/items/7"
    assert client.post(link).json()["parameters"] == {"number": 7}


def test_an_application_sees_escapes_in_its_raw_path_and_letters_in_its_path(wire: Wire) -> None:
    wire.ask("GET", "/functions/v1/tasks/deep/a%2Fb%20c")
    seen = wire.answer().json()
    assert seen["path"] == "/functions/v1/tasks/deep/a/b c"
    assert seen["raw_path"] == "/functions/v1/tasks/deep/a%2Fb%20c"
    assert seen["parameters"] == {"rest": "a/b c"}


def test_an_application_answers_its_own_404_and_405(client: httpx2.Client) -> None:
    missing = client.get("/tasks/nope")
    assert (missing.status_code, missing.text) == (404, "Not Found")
    assert "sb-error-code" not in missing.headers
    assert client.delete("/tasks/items/1").status_code == 405


# --- the prefix ----------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_the_prefix_is_configurable(tmp_path_factory: pytest.TempPathFactory, prefix: str) -> None:
    config = f'{CONFIG}[edge_runtime]\nprefix = "{prefix}"\n'
    root = project(tmp_path_factory.mktemp("prefix"), {"hello": ECHO, "tasks": APP}, config)
    with serving(root) as server:
        base = server.url + prefix
        headers = {"authorization": f"Bearer {server.token()}"}
        with httpx2.Client(base_url=server.url + "/", headers=headers) as client:
            seen = client.get(f"{base}/hello/7?x=1").json()
            assert (seen["scope_path"], seen["root_path"]) == ("/hello/7", prefix)
            seen = client.get(f"{base}/tasks/items/5").json()
            assert (seen["path"], seen["root_path"]) == (f"{prefix}/tasks/items/5", f"{prefix}/tasks")
            assert client.get(client.get(f"{base}/tasks").json()["link"]).json()["route"] == "show"
            assert client.get(f"{server.url}/functions/v1/hello").status_code == 404
            assert client.get(f"{base}/nope").json()["code"] == "NOT_FOUND"
            assert client.get(f"{base}/_internal/health").json() == {"message": "ok"}
            assert client.get(f"{server.url}/_internal/health").json() == {"message": "ok"}


def test_a_function_disabled_while_the_server_runs_is_a_404_from_then_on(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = project(tmp_path_factory.mktemp("disabling"), {"hello": ECHO}, "[ai]\npreload = []\n")
    with serving(root) as server, server.client() as client:
        assert client.get("/hello").status_code == 200
        (root / "supabase" / "config.toml").write_text(
            "[ai]\npreload = []\n[functions.hello]\nenabled = false\n"
        )
        eventually(lambda: client.get("/hello").status_code == 404, "a 404")
