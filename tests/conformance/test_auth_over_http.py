"""Who may call: every sentence of the contract about credentials, over a socket."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets.exceptions
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.conformance.wire import Answer, Wire, is_whole
from tests.gateway.signing import (
    PrivateKey,
    corrupt,
    ec_key,
    ed_key,
    forge,
    jwk,
    part,
    public_pem,
    rsa_key,
    sign,
)
from tests.running import SECRET, Server, eventually, project, serving

ECHO = """
async def handler(request):
    return {
        "auth": request.auth,
        "headers": [[name.decode(), value.decode("latin-1")] for name, value in request.headers.raw],
    }

async def websocket(ws):
    await ws.accept(ws.scope["subprotocols"][0] if ws.scope["subprotocols"] else None)
    await ws.send_json({
        "auth": ws.scope["auth"],
        "query": ws.scope["query_string"].decode(),
        "subprotocols": ws.scope["subprotocols"],
        "headers": [[name.decode(), value.decode("latin-1")] for name, value in ws.headers.raw],
    })
    await ws.close()
"""
CONFIG = """
[ai]
preload = []
[functions.open]
verify_jwt = false
"""
PUBLISHABLE, OTHER_PUBLISHABLE, SECRET_KEY = "sb_publishable_web", "sb_publishable_app", "sb_secret_server"
ENVIRON = {
    "SUPABASE_PUBLISHABLE_KEYS": json.dumps({"default": PUBLISHABLE, "app": OTHER_PUBLISHABLE}),
    "SUPABASE_SECRET_KEYS": json.dumps({"default": SECRET_KEY}),
}
JWKS = {"keys": [jwk(rsa_key(), "rsa"), jwk(ec_key(), "ec"), jwk(ed_key(), "ed")]}
HS = {"alg": "HS256", "typ": "JWT"}
PATH = "/functions/v1/echo"


def claims(**changes: Any) -> dict[str, Any]:
    """A minute's worth of claims; a change of None takes a claim away."""
    whole = {"sub": "user-1", "role": "authenticated", "exp": int(time.time()) + 60, **changes}
    return {name: value for name, value in whole.items() if value is not None}


def user(key: Any = SECRET, **changes: Any) -> str:
    return sign(claims(**changes), key)


def issued(name: str, **changes: Any) -> str:
    """A token signed with one of the published keys."""
    keys: dict[str, tuple[PrivateKey, str]] = {
        "rsa": (rsa_key(), "RS256"),
        "ec": (ec_key(), "ES256"),
        "ed": (ed_key(), "EdDSA"),
    }
    key, algorithm = keys[name]
    return sign(claims(**changes), key, algorithm, {"kid": name})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = project(tmp_path_factory.mktemp("auth"), {"echo": ECHO, "open": ECHO}, CONFIG)
    (root / "keys.json").write_text(json.dumps(JWKS))
    with serving(root, env={**ENVIRON, "SUPABASE_JWKS": "keys.json"}) as server:
        yield server


@pytest.fixture
def ask(dial: Callable[[], Wire]) -> Callable[..., Answer]:
    """Asks the function with these header lines and nothing else about who calls."""

    def ask(*headers: str, path: str = PATH, method: str = "GET") -> Answer:
        wire = dial()
        wire.ask(method, path, *headers, key=False)
        return wire.answer()

    return ask


Ask = Callable[..., Answer]


def seen(answer: Answer, name: str) -> list[str]:
    """What the function saw of a header."""
    return [value for key, value in answer.json()["headers"] if key == name]


def refused(answer: Answer, code: str) -> None:
    is_whole(answer.json(), answer.status, code, answer.headers)
    assert answer.headers["x-relay-error"] == "true"


# --- Authorization -------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_a_bearer_token_is_accepted_in_any_case_of_the_scheme(ask: Ask, scheme: str) -> None:
    answer = ask(f"Authorization: {scheme} {user()}")
    assert (answer.status, answer.json()["auth"]["sub"]) == (200, "user-1")


def test_a_bare_token_is_accepted_because_the_guide_sends_one(ask: Ask) -> None:
    assert ask(f"Authorization: {user()}").json()["auth"]["sub"] == "user-1"


@pytest.mark.parametrize("role", ["anon", "service_role"])
def test_the_project_s_own_keys_are_tokens(ask: Ask, server: Server, role: str) -> None:
    assert ask(f"Authorization: Bearer {server.token(role)}").json()["auth"]["role"] == role


@pytest.mark.parametrize("name", ["rsa", "ec", "ed"])
def test_tokens_of_the_published_keys_are_accepted(ask: Ask, name: str) -> None:
    assert ask(f"Authorization: Bearer {issued(name)}").json()["auth"]["sub"] == "user-1"


def test_without_credentials_the_answer_says_so(ask: Ask) -> None:
    refused(ask(), "UNAUTHORIZED_NO_AUTH_HEADER")
    refused(ask(f"X-Authorization: Bearer {user()}"), "UNAUTHORIZED_NO_AUTH_HEADER")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_every_method_is_authenticated(ask: Ask, method: str) -> None:
    refused(ask(method=method), "UNAUTHORIZED_NO_AUTH_HEADER")


@pytest.mark.parametrize(
    "second", ["Authorization: Bearer {}", "authorization: {}", "Authorization: Basic YTpi", "Authorization:"]
)
def test_two_authorization_headers_are_refused_even_if_one_is_good(ask: Ask, second: str) -> None:
    good = user()
    refused(ask(f"Authorization: Bearer {good}", second.format(good)), "UNAUTHORIZED_INVALID_JWT_FORMAT")
    refused(ask(second.format(good), f"Authorization: Bearer {good}"), "UNAUTHORIZED_INVALID_JWT_FORMAT")


@pytest.mark.parametrize("scheme", ["Basic", "Token", "JWT", "Bearer Bearer", "Bearer,"])
def test_another_scheme_is_refused_even_with_a_good_token(ask: Ask, scheme: str) -> None:
    refused(ask(f"Authorization: {scheme} {user()}"), "UNAUTHORIZED_INVALID_JWT_FORMAT")


def ours(header: object, payload: object) -> str:
    """Whatever it is, signed with the project's secret."""
    return forge(header, payload, SECRET.encode())


def confused(key: bytes, **header: str) -> str:
    return forge({**HS, **header}, claims(), key)


MALFORMED, LEGACY, ASYMMETRIC, EXPIRED, UNSUPPORTED = (
    "UNAUTHORIZED_INVALID_JWT_FORMAT",
    "UNAUTHORIZED_LEGACY_JWT",
    "UNAUTHORIZED_ASYMMETRIC_JWT",
    "UNAUTHORIZED_JWT_EXPIRED",
    "UNAUTHORIZED_UNSUPPORTED_TOKEN_ALGORITHM",
)
BAD_TOKENS: dict[str, tuple[Callable[[], str], str]] = {
    "word": (lambda: "garbage", MALFORMED),
    "two parts": (lambda: user().rpartition(".")[0], MALFORMED),
    "four parts": (lambda: user() + ".AAAA", MALFORMED),
    "no signature": (lambda: user().rpartition(".")[0] + ".", MALFORMED),
    "padded": (lambda: user() + "=", MALFORMED),
    "two tokens": (lambda: f"{user()}, {user()}", MALFORMED),
    "payload is no JSON": (lambda: ours(HS, b"nope"), MALFORMED),
    "payload is a list": (lambda: ours(HS, [1]), MALFORMED),
    "critical extension": (lambda: ours({**HS, "crit": ["x"], "x": 1}, claims()), MALFORMED),
    "20 KB": (lambda: user(x="x" * 20_000), MALFORMED),
    "none": (lambda: f"{part({'alg': 'none'})}.{part(claims())}.AAAA", UNSUPPORTED),
    "nOnE": (lambda: ours({"alg": "nOnE"}, claims()), UNSUPPORTED),
    "HS512": (lambda: sign(claims(), SECRET, "HS512"), UNSUPPORTED),
    "no algorithm": (lambda: ours({"typ": "JWT"}, claims()), UNSUPPORTED),
    "another secret": (lambda: user("x" * 40), LEGACY),
    "empty secret": (lambda: confused(b""), LEGACY),
    "signature changed": (lambda: corrupt(user()), LEGACY),
    "payload changed": (
        lambda: ".".join([part(HS), part(claims(role="service_role")), user().split(".")[2]]),
        LEGACY,
    ),
    "the public RSA key as a secret": (lambda: confused(public_pem(rsa_key()), kid="rsa"), LEGACY),
    "the public EC key as a secret": (lambda: confused(public_pem(ec_key()), kid="ec"), LEGACY),
    "the secret as an RSA key": (
        lambda: ours({"alg": "RS256", "kid": "rsa"}, claims()),
        ASYMMETRIC,
    ),
    "the key of another algorithm": (
        lambda: sign(claims(), ec_key(), "ES256", {"kid": "rsa"}),
        ASYMMETRIC,
    ),
    "another RSA key": (lambda: sign(claims(), rsa_key("other"), "RS256", {"kid": "rsa"}), ASYMMETRIC),
    "unknown kid": (lambda: sign(claims(), ec_key(), "ES256", {"kid": "nobody"}), ASYMMETRIC),
    "brings its own key": (
        lambda: sign(claims(), ec_key("own"), "ES256", {"jwk": jwk(ec_key("own"), "own"), "kid": "own"}),
        ASYMMETRIC,
    ),
    "no exp": (lambda: user(exp=None), LEGACY),
    "exp is text": (lambda: ours(HS, claims(exp="4000000000")), LEGACY),
    "expired": (lambda: user(exp=int(time.time()) - 1), EXPIRED),
    "expired (EdDSA)": (lambda: issued("ed", exp=int(time.time()) - 1), EXPIRED),
    "not yet valid": (lambda: user(nbf=int(time.time()) + 30), LEGACY),
    "unknown publishable key": (lambda: "sb_publishable_nope", MALFORMED),
    "unknown secret key": (lambda: "sb_secret_nope", MALFORMED),
}


@pytest.mark.parametrize("case", BAD_TOKENS)
def test_a_bad_token_is_refused_with_the_code_of_the_table(ask: Ask, case: str) -> None:
    make, code = BAD_TOKENS[case]
    refused(ask(f"Authorization: Bearer {make()}"), code)


def test_a_token_of_a_megabyte_is_refused_before_it_is_read(ask: Ask) -> None:
    answer = ask(f"Authorization: Bearer {user(x='x' * 1_000_000)}")
    is_whole(answer.json(), answer.status, "HEADERS_TOO_LARGE", answer.headers)


# --- apikey --------------------------------------------------------------------------------

ROLES = {PUBLISHABLE: "anon", OTHER_PUBLISHABLE: "anon", SECRET_KEY: "service_role"}


@pytest.mark.parametrize("key", ROLES)
def test_a_key_of_the_project_stands_for_its_role_wherever_it_is_sent(
    ask: Ask, server: Server, key: str
) -> None:
    role = ROLES[key]
    for headers in (
        [f"apikey: {key}"],
        [f"Authorization: Bearer {key}"],
        [f"Authorization: {key}"],
        [f"Authorization: Bearer {key}", f"apikey: {key}"],
    ):
        answer = ask(*headers)
        assert answer.json()["auth"]["role"] == role, headers
        assert seen(answer, "authorization") == [f"Bearer {server.token(role)}"], headers


@pytest.mark.parametrize("role", ["anon", "service_role"])
def test_the_anon_and_the_service_token_are_api_keys_too(ask: Ask, server: Server, role: str) -> None:
    token = server.token(role)
    answer = ask(f"apikey: {token}")
    assert answer.json()["auth"]["role"] == role
    assert seen(answer, "authorization") == [f"Bearer {token}"]


@pytest.mark.parametrize("key", ["sb_publishable_nope", "sb_secret_nope", "garbage", PUBLISHABLE[:-1], ""])
def test_an_unknown_api_key_is_refused(ask: Ask, key: str) -> None:
    refused(ask(f"apikey: {key}"), MALFORMED)


def test_a_user_s_token_is_no_api_key(ask: Ask) -> None:
    refused(ask(f"apikey: {user()}"), MALFORMED)


@pytest.mark.parametrize("case", ["word", "another secret", "expired", "none", "unknown kid"])
def test_an_api_key_does_not_rescue_a_bad_token(ask: Ask, case: str) -> None:
    make, code = BAD_TOKENS[case]
    refused(ask(f"Authorization: Bearer {make()}", f"apikey: {SECRET_KEY}"), code)


def test_a_user_s_token_counts_and_not_the_api_key_beside_it(ask: Ask) -> None:
    token = user()
    for key in (PUBLISHABLE, SECRET_KEY, "sb_secret_nope", "garbage"):
        answer = ask(f"Authorization: Bearer {token}", f"apikey: {key}")
        assert answer.json()["auth"]["role"] == "authenticated"
        assert seen(answer, "authorization") == [f"Bearer {token}"]


def test_two_api_keys_are_refused(ask: Ask) -> None:
    refused(ask(f"apikey: {PUBLISHABLE}", f"apikey: {SECRET_KEY}"), MALFORMED)


# --- claims --------------------------------------------------------------------------------


def test_the_function_gets_every_claim_of_the_token(ask: Ask) -> None:
    payload = claims(aud=["a", "b"], app_metadata={"plan": "größer", "seats": [1, 2.5, None, True]})
    answer = ask(f"Authorization: Bearer {sign(payload, SECRET)}")
    assert answer.json()["auth"] == payload


FORGED = [
    'auth: {"role":"service_role"}',
    "x-auth: service_role",
    "x-jwt-claims: service_role",
    'claims: {"role":"service_role"}',
    'x-supabase-auth: {"role":"service_role"}',
    "sb-role: service_role",
    "x-forwarded-user: root",
    "remote-user: root",
]


def test_no_header_of_a_client_can_set_claims(ask: Ask) -> None:
    assert ask(f"Authorization: Bearer {user()}", *FORGED).json()["auth"]["role"] == "authenticated"
    assert ask(*FORGED, path="/functions/v1/open").json()["auth"] == {}
    refused(ask(*FORGED), "UNAUTHORIZED_NO_AUTH_HEADER")


def test_a_function_may_ask_for_no_check_and_then_gets_no_claims(ask: Ask) -> None:
    for headers in ([], ["Authorization: Bearer garbage"], [f"Authorization: Bearer {user()}"]):
        answer = ask(*headers, path="/functions/v1/open")
        assert (answer.status, answer.json()["auth"]) == (200, {})
        assert [f"Authorization: {value}" for value in seen(answer, "authorization")] == headers


def test_a_token_that_was_good_is_refused_once_it_has_expired(ask: Ask) -> None:
    header = f"Authorization: Bearer {user(exp=int(time.time()) + 2)}"
    assert ask(header).status == 200
    eventually(lambda: ask(header).status == 401, "the token's end")
    refused(ask(header), EXPIRED)


# --- WebSockets ----------------------------------------------------------------------------


def socket_url(server: Server, query: str = "", name: str = "echo") -> str:
    return f"{server.functions}/{name}{query}".replace("http://", "ws://")


def greeting(server: Server, query: str = "", **options: Any) -> tuple[dict[str, Any], str | None]:
    """What the function saw of a WebSocket, and the subprotocol that it agreed on."""
    options.setdefault("proxy", None)
    with connect(socket_url(server, query, options.pop("name", "echo")), **options) as socket:
        return json.loads(socket.recv()), socket.subprotocol


def test_a_websocket_may_carry_the_token_in_its_header(server: Server) -> None:
    told, _ = greeting(server, additional_headers={"Authorization": f"Bearer {user()}"})
    assert told["auth"]["sub"] == "user-1"


def test_a_websocket_may_carry_the_token_in_its_query_and_the_function_does_not_see_it(
    server: Server,
) -> None:
    told, _ = greeting(server, f"?a=1&jwt={user()}&b=2")
    assert (told["auth"]["sub"], told["query"]) == ("user-1", "a=1&b=2")


def test_a_websocket_may_carry_the_token_as_a_subprotocol_and_the_function_does_not_see_it(
    server: Server,
) -> None:
    offered = [Subprotocol("chat"), Subprotocol(f"jwt-{user()}")]
    told, agreed = greeting(server, subprotocols=offered)
    assert (told["auth"]["sub"], told["subprotocols"], agreed) == ("user-1", ["chat"], "chat")
    assert not any("jwt-" in value for _, value in told["headers"])


def test_the_token_s_subprotocol_is_echoed_if_it_was_the_only_one_offered(server: Server) -> None:
    only = Subprotocol(f"jwt-{user()}")
    told, agreed = greeting(server, subprotocols=[only])
    assert (told["subprotocols"], agreed) == ([], only)


@pytest.mark.parametrize(
    "case", ["word", "another secret", "expired", "none", "the public EC key as a secret"]
)
def test_a_websocket_with_a_bad_token_is_refused_with_the_same_error(server: Server, case: str) -> None:
    make, code = BAD_TOKENS[case]
    for options in (
        {"query": f"?jwt={make()}"},
        {"subprotocols": [Subprotocol(f"jwt-{make()}")]},
        {"additional_headers": {"Authorization": f"Bearer {make()}"}},
        {"additional_headers": {"Authorization": f"Bearer {make()}"}, "query": f"?jwt={user()}"},
    ):
        with pytest.raises(websockets.exceptions.InvalidStatus) as refusal:
            greeting(server, **options)
        response = refusal.value.response
        is_whole(json.loads(response.body or b""), response.status_code, code, response.headers)


def test_a_websocket_without_a_token_is_refused_unless_the_function_asks_for_no_check(server: Server) -> None:
    with pytest.raises(websockets.exceptions.InvalidStatus) as refusal:
        greeting(server)
    response = refusal.value.response
    is_whole(json.loads(response.body or b""), 401, "UNAUTHORIZED_NO_AUTH_HEADER", response.headers)
    told, _ = greeting(server, name="open")
    assert told["auth"] == {}


def test_the_query_of_plain_http_carries_no_token(ask: Ask) -> None:
    refused(ask(path=f"{PATH}?jwt={user()}"), "UNAUTHORIZED_NO_AUTH_HEADER")


# --- settings ------------------------------------------------------------------------------


def test_no_verify_jwt_lets_everybody_in(tmp_path: Path) -> None:
    with serving(project(tmp_path, {"echo": ECHO}), "--no-verify-jwt") as server:
        response = httpx2.get(f"{server.functions}/echo", headers={"authorization": "Bearer garbage"})
        assert (response.status_code, response.json()["auth"]) == (200, {})
        assert httpx2.get(f"{server.functions}/echo").status_code == 200
        assert httpx2.get(f"{server.url}/_internal/metric").status_code == 401


class Issuer:
    """Publishes a key set over HTTP, and counts how often it is asked."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = JWKS
        self.asked = 0
        issuer = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                content = json.dumps(issuer.document).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Page)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


@contextmanager
def issuing() -> Iterator[Issuer]:
    issuer = Issuer()
    try:
        yield issuer
    finally:
        issuer.stop()


def status_and_code(server: Server, token: str) -> tuple[int, str]:
    response = httpx2.get(f"{server.functions}/echo", headers={"authorization": f"Bearer {token}"})
    return response.status_code, response.headers.get("sb-error-code", "")


def test_a_key_set_is_fetched_once_and_kept_while_its_issuer_is_down(tmp_path: Path) -> None:
    with (
        issuing() as issuer,
        serving(project(tmp_path, {"echo": ECHO}), env={"SUPABASE_JWKS": issuer.url}) as server,
    ):
        for name in ("rsa", "ec", "ed"):
            assert status_and_code(server, issued(name)) == (200, "")
        strangers = [sign(claims(), ec_key("own"), "ES256", {"kid": f"stranger-{n}"}) for n in range(20)]
        assert {status_and_code(server, token) for token in strangers} == {(401, ASYMMETRIC)}
        assert issuer.asked == 1  # at most every 30 s
        issuer.stop()
        assert status_and_code(server, issued("ec", sub="somebody else")) == (200, "")


def test_issuer_audience_and_leeway_follow_the_config_also_when_it_changes(tmp_path: Path) -> None:
    config = f'{CONFIG}[auth]\nissuer = "https://issuer.example"\naudience = "app"\nleeway_s = 20\n'
    root = project(tmp_path, {"echo": ECHO}, config)
    with serving(root, env={"SUPABASE_JWKS": json.dumps(JWKS)}) as server:
        good = {"iss": "https://issuer.example", "aud": ["other", "app"]}
        token = issued("ec", **good)
        assert status_and_code(server, token) == (200, "")
        assert status_and_code(server, issued("ec", **{**good, "iss": "https://x.example"}))[1] == ASYMMETRIC
        assert status_and_code(server, user(**{**good, "aud": "other"}))[1] == LEGACY
        assert status_and_code(server, user(iss=good["iss"]))[1] == LEGACY
        assert status_and_code(server, user(**good, exp=int(time.time()) - 5)) == (200, "")
        assert status_and_code(server, user(**good, exp=int(time.time()) - 25))[1] == EXPIRED
        (root / "supabase" / "config.toml").write_text(config.replace("issuer.example", "elsewhere.example"))
        eventually(lambda: status_and_code(server, token) == (401, ASYMMETRIC), "the new issuer")
