"""Catalogue 5.1: plain requests and answers."""

from __future__ import annotations

import gzip

import httpx2
import pytest

from tests.catalogue.place import Place, RawWire, told, within

PREFLIGHT = {"origin": "https://page.example", "access-control-request-method": "POST"}


def test_a_stream_is_delivered_whole(client: httpx2.Client) -> None:
    """1"""
    response = client.get("/basic/stream")
    assert response.text == "".join(f"piece {number}\n" for number in range(5))
    assert "content-length" not in response.headers


def test_a_preflight_reaches_the_function_that_wants_it_and_its_cors_headers_come_back(
    client: httpx2.Client,
) -> None:
    """2"""
    del client.headers["authorization"]
    response = client.options("/preflights", headers=PREFLIGHT)
    assert (response.status_code, response.text) == (200, "ok")
    assert response.headers["access-control-allow-headers"] == "authorization, x-client-info, apikey"
    assert response.headers["access-control-allow-origin"] == "*"


def test_any_other_preflight_is_answered_by_the_host(client: httpx2.Client) -> None:
    """2: on purpose, a function needs no code for browsers to call it"""
    del client.headers["authorization"]
    response = client.options("/basic", headers=PREFLIGHT)
    assert (response.status_code, response.content) == (204, b"")
    allowed = response.headers["access-control-allow-headers"]
    assert {"authorization", "x-client-info", "apikey"} <= {name.strip() for name in allowed.split(",")}


def test_a_post_of_json_is_answered_with_json(client: httpx2.Client) -> None:
    """3"""
    response = client.post("/basic/hello", json={"name": "bar"})
    assert response.status_code == 200
    assert response.json() == {"message": "Hello bar from foo!"}
    assert response.headers["content-type"] == "application/json"


def test_a_chunked_post_without_a_length_is_read_whole(wire: RawWire) -> None:
    """4"""
    wire.call("POST", "/basic/length", "Transfer-Encoding: chunked")
    for size in (1, 1000, 70_000):
        wire.send_chunk(b"x" * size)
    wire.send_chunk(b"")
    assert wire.answer().json() == {"length": 71_001, "content-length": None}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_body_is_a_204(wire: RawWire, method: str) -> None:
    """5"""
    wire.call(method, "/basic/null")
    answer = wire.answer()
    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers
    wire.call(method, "/basic/null")  # the connection is fit for another
    assert wire.answer().status == 204


def test_an_empty_response_is_a_whole_one(wire: RawWire) -> None:
    """6"""
    wire.call("GET", "/basic/empty")
    answer = wire.answer()
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "0", b"")


@pytest.mark.parametrize(
    ("function", "framework"), [("bare", "none"), ("starlettes", "starlette"), ("fastapis", "fastapi")]
)
def test_an_application_of_a_framework_is_served_with_its_routes(
    client: httpx2.Client, function: str, framework: str
) -> None:
    """7"""
    response = client.get(f"/{function}/items/tea")
    assert (response.status_code, response.text) == (200, "tea")
    assert response.headers["x-framework"] == framework


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/basic", "basic"),
        ("/plain/x", '{"exported":"def","path":"/plain/x"}'),
        ("/bare/app", "app"),
    ],
)
def test_a_function_exports_an_async_def_a_def_or_an_app(
    client: httpx2.Client, path: str, answer: str
) -> None:
    """8"""
    assert client.get(path).text == answer


def test_the_entry_file_has_the_name_that_the_settings_say(client: httpx2.Client) -> None:
    """9"""
    assert client.get("/entry").json() == {"entrypoint": "main.py"}


def test_json_and_binary_files_beside_the_code_are_there(client: httpx2.Client) -> None:
    """10"""
    assert client.get("/basic/data").json() == {"from": "a file beside index.py"}
    assert client.get("/basic/binary").content == b"\0asm\1\0\0\0"


def test_a_redirect_to_itself_goes_to_the_client_and_is_followed_by_nobody(client: httpx2.Client) -> None:
    """11"""
    with within(10):
        response = client.get("/basic/redirect")
    assert response.status_code == 307
    assert response.headers["location"] == "/functions/v1/basic/redirect"


@pytest.mark.parametrize("shape", ["object", "function"])
def test_a_value_that_is_no_response_is_a_502(client: httpx2.Client, shape: str) -> None:
    """12"""
    told(client.get(f"/basic/{shape}"), 502, "INVALID_RESPONSE")
    assert client.get("/basic").status_code == 200


def test_what_a_function_compresses_off_the_loop_arrives_as_it_is(place: Place) -> None:
    """13"""
    with place.client() as client, client.stream("GET", "/basic/compressed") as response:
        data = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert gzip.decompress(data).startswith(b"the same text again")


def test_garbage_instead_of_tls_raises_a_proper_error(client: httpx2.Client) -> None:
    """14"""
    assert client.get("/outgoing/tls").json() == {"error": "SSLError", "reason": "WRONG_VERSION_NUMBER"}


def test_an_http_client_works_inside_a_function(client: httpx2.Client) -> None:
    """15"""
    assert client.get("/outgoing/client").json() == {"version": "HTTP/1.1", "text": "meow"}


def test_a_decorated_handler_is_a_handler(client: httpx2.Client) -> None:
    """17"""
    response = client.get("/basic/decorated")
    assert response.json() == {"decorated": True}
    assert response.headers["x-stamp"] == "decorated"
