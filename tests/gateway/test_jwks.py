"""Keys of the issuer: fetched rarely, once at a time, and kept while it is down."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from runtime.errors import BadAsymmetricToken, KeysError
from runtime.gateway import jwks
from runtime.gateway.jwks import JwksSource, parse
from tests.gateway.signing import ec_key, ed_key, jwk, rsa_key
from tests.gateway.sockets import eventually

pytestmark = pytest.mark.anyio

URL = "http://issuer.test/jwks.json"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Issuer:
    """Publishes a document; counts how often it is asked. An exception is raised instead."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.document: bytes | Exception = json.dumps({"keys": keys}).encode()
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    def publish(self, *keys: dict[str, Any]) -> None:
        self.document = json.dumps({"keys": keys}).encode()

    async def __call__(self, url: str) -> bytes:
        self.asked += 1
        await self.open.wait()
        if isinstance(self.document, Exception):
            raise self.document
        return self.document


def source(
    issuer: Callable[[str], Awaitable[bytes]], clock: Clock | None = None, static: Any = None
) -> JwksSource:
    return JwksSource(URL, static, issuer, clock or Clock())


async def test_a_key_is_fetched_when_a_token_names_it() -> None:
    issuer = Issuer(jwk(ec_key(), "e"), jwk(rsa_key(), "r"), jwk(ed_key(), "d"))
    keys = source(issuer)
    assert issuer.asked == 0
    found = [(await keys.key(kid)).algorithm_name for kid in ("e", "r", "d")]
    assert found == ["ES256", "RS256", "EdDSA"]
    assert issuer.asked == 1


async def test_a_given_set_is_asked_first_and_nothing_is_fetched_for_it() -> None:
    issuer = Issuer(jwk(rsa_key(), "k"))
    keys = source(issuer, static={"keys": [jwk(ec_key(), "k")]})
    assert (await keys.key("k")).algorithm_name == "ES256"
    assert issuer.asked == 0


async def test_without_a_url_an_unknown_key_is_refused() -> None:
    with pytest.raises(BadAsymmetricToken):
        await JwksSource(None, {"keys": [jwk(ec_key(), "e")]}).key("other")


async def test_a_new_key_is_found_after_the_interval_and_the_change_is_told() -> None:
    issuer, clock, changes = Issuer(jwk(ec_key(), "old")), Clock(), []
    keys = source(issuer, clock)
    keys.on_change = lambda: changes.append(1)
    await keys.key("old")
    issuer.publish(jwk(ec_key("new"), "new"))
    clock.now = 29.9
    with pytest.raises(BadAsymmetricToken):
        await keys.key("new")
    clock.now = 30.0
    assert (await keys.key("new")).key_id == "new"
    assert (issuer.asked, len(changes)) == (2, 2)


async def test_a_thousand_unknown_ids_cause_one_fetch_per_interval() -> None:
    issuer, clock = Issuer(jwk(ec_key(), "e")), Clock()
    keys = source(issuer, clock)
    for second in range(100):
        clock.now = second * 0.9
        for number in range(10):
            with pytest.raises(BadAsymmetricToken):
                await keys.key(f"unknown-{second}-{number}")
    assert issuer.asked == 3


async def test_callers_at_the_same_time_share_one_fetch() -> None:
    issuer = Issuer(jwk(ec_key(), "e"))
    issuer.open.clear()
    keys = source(issuer)
    waiting = [asyncio.create_task(keys.key("e")) for _ in range(50)]
    await eventually(lambda: issuer.asked)
    issuer.open.set()
    assert {(await one).key_id for one in waiting} == {"e"}
    assert issuer.asked == 1


async def test_a_caller_that_leaves_does_not_take_the_fetch_from_the_others() -> None:
    issuer = Issuer(jwk(ec_key(), "e"))
    issuer.open.clear()
    keys = source(issuer)
    leaving, staying = (asyncio.create_task(keys.key("e")) for _ in range(2))
    await eventually(lambda: issuer.asked)
    leaving.cancel()
    await asyncio.wait([leaving])
    issuer.open.set()
    assert (await staying).key_id == "e"


@pytest.mark.parametrize(
    "document",
    [
        OSError("connection refused"),
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": 1}',
        b"",
        b"\xff",
        b'{"keys": []}' + b" " * jwks.MAX_BYTES,
    ],
    ids=["down", "html", "list", "empty object", "keys object", "keys number", "nothing", "bytes", "large"],
)
async def test_the_old_set_stays_while_the_issuer_is_down_or_sends_nonsense(
    document: bytes | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    issuer, clock = Issuer(jwk(ec_key(), "e")), Clock()
    keys = source(issuer, clock)
    await keys.key("e")
    issuer.document = document
    clock.now = 600
    with pytest.raises(BadAsymmetricToken):
        await keys.key("other")
    assert issuer.asked == 2
    assert (await keys.key("e")).key_id == "e"
    assert "1 known keys stay" in caplog.text


async def test_an_issuer_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT_S", 0.01)
    issuer = Issuer()
    issuer.open.clear()
    with pytest.raises(BadAsymmetricToken):
        await source(issuer).key("e")


async def test_a_withdrawn_key_is_forgotten_with_the_next_good_set() -> None:
    issuer, clock = Issuer(jwk(ec_key(), "e")), Clock()
    keys = source(issuer, clock)
    await keys.key("e")
    issuer.publish()
    clock.now = 60
    for kid in ("other", "e"):
        with pytest.raises(BadAsymmetricToken):
            await keys.key(kid)


@pytest.mark.parametrize("kid", [None, "k"], ids=["nameless", "named"])
async def test_a_token_without_id_means_the_only_key_of_a_set(kid: str | None) -> None:
    assert (await source(Issuer(jwk(ec_key(), kid))).key(None)).algorithm_name == "ES256"


async def test_a_token_without_id_means_no_key_of_several() -> None:
    with pytest.raises(BadAsymmetricToken):
        await source(Issuer(jwk(ec_key(), None), jwk(rsa_key(), None))).key(None)


async def test_a_token_with_an_id_never_means_a_key_without() -> None:
    with pytest.raises(BadAsymmetricToken):
        await source(Issuer(jwk(ec_key(), None))).key("e")


@pytest.mark.parametrize(
    "unusable",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "k", "alg": "HS256"},
        {"kty": "EC", "crv": "P-256", "kid": "k"},
        {"kty": "EC", "crv": ["P-256"], "kid": "k"},
        {"kty": ["RSA"], "kid": "k"},
        {"kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "k"},
        "not an object",
        None,
        jwk(rsa_key(), "k", use="enc"),
        jwk(rsa_key(), "k", key_ops=["encrypt"]),
        jwk(rsa_key(), "k", alg="PS256"),
        jwk(rsa_key(), "k", alg="HS256"),
        jwk(rsa_key("short", 1024), "k"),
    ],
    ids=[
        "symmetric",
        "no point",
        "list as curve",
        "list as type",
        "no signing curve",
        "text",
        "null",
        "for encryption",
        "not for verifying",
        "other algorithm",
        "symmetric algorithm",
        "short RSA",
    ],
)
def test_a_key_that_cannot_verify_here_is_skipped_and_the_others_stay(unusable: object) -> None:
    assert [key.key_id for key in parse({"keys": [unusable, jwk(ec_key(), "good")]})] == ["good"]


def test_a_private_key_in_a_set_is_used_as_a_public_one_only() -> None:
    private = {**jwk(ec_key(), "k"), "d": "AAAA"}
    (key,) = parse({"keys": [private]})
    assert key.key == parse({"keys": [jwk(ec_key(), "k")]})[0].key


def test_a_given_set_that_is_none_is_an_error_that_names_it() -> None:
    with pytest.raises(KeysError, match="SUPABASE_JWKS"):
        JwksSource(None, {"kid": "e"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, tuple[int, bytes]], list[str]]]:
    """A real issuer on loopback: its address, what it serves, and the paths it was asked for."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    pages: dict[str, tuple[int, bytes]] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, content = pages[self.path]
            self.send_response(status)
            self.send_header("location", "/good")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", pages, asked
        listening.shutdown()
        thread.join()


async def test_the_set_is_downloaded_over_http_once_for_a_thousand_unknown_ids(
    server: tuple[str, dict[str, tuple[int, bytes]], list[str]],
) -> None:
    url, pages, asked = server
    pages["/good"] = (200, json.dumps({"keys": [jwk(ec_key(), "e")]}).encode())
    keys = JwksSource(f"{url}/good", None, clock=Clock())
    assert (await keys.key("e")).algorithm_name == "ES256"
    for number in range(1000):
        with pytest.raises(BadAsymmetricToken):
            await keys.key(f"unknown-{number}")
    assert asked == ["/good"]


@pytest.mark.parametrize(
    ("status", "content"),
    [(500, b'{"keys": []}'), (302, b""), (200, b"x" * (jwks.MAX_BYTES + 1))],
    ids=["error", "redirect", "large"],
)
async def test_a_download_that_is_no_document_is_an_error(
    server: tuple[str, dict[str, tuple[int, bytes]], list[str]], status: int, content: bytes
) -> None:
    url, pages, asked = server
    pages["/bad"] = (status, content)
    with pytest.raises(ValueError, match=r"status|larger"):
        await jwks.download(f"{url}/bad")
    assert asked == ["/bad"]
