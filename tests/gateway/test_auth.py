"""Who may call: every sentence of the contract about credentials, and a table of tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from runtime import errors
from runtime.errors import (
    BadAsymmetricToken,
    BadSymmetricToken,
    ExpiredToken,
    MalformedToken,
    NoCredentials,
    Unauthorized,
    UnsupportedAlgorithm,
)
from runtime.gateway import auth as auth_module
from runtime.gateway.auth import Authenticator, Identity
from runtime.gateway.jwks import JwksSource
from runtime.project.settings import Auth, Keys
from tests.gateway.asgi import http, websocket
from tests.gateway.signing import (
    NOW,
    SECRET,
    PrivateKey,
    claims,
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

pytestmark = pytest.mark.anyio

ANON = sign(claims(sub=None, role="anon"))
SERVICE = sign(claims(sub=None, role="service_role"))
PUBLISHABLE, SECRET_KEY = "sb_publishable_one", "sb_secret_one"
ROLES = {ANON: "anon", PUBLISHABLE: "anon", SERVICE: "service_role", SECRET_KEY: "service_role"}
HS = {"alg": "HS256", "typ": "JWT"}
USER = sign()


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def keys(**changes: Any) -> Keys:
    usual: dict[str, Any] = {
        "jwt_secret": SECRET,
        "anon_key": ANON,
        "service_role_key": SERVICE,
        "publishable": (PUBLISHABLE, "sb_publishable_two"),
        "secret": (SECRET_KEY,),
    }
    return Keys(**{**usual, **changes})


def published() -> dict[str, Any]:
    return {"keys": [jwk(rsa_key(), "rsa"), jwk(ec_key(), "ec"), jwk(ed_key(), "ed")]}


def authenticator(
    auth: Auth | None = None, clock: Clock | None = None, jwks: JwksSource | None = None, **changes: Any
) -> Authenticator:
    source = jwks or JwksSource(None, published())
    return Authenticator(keys(**changes), auth or Auth(), source, clock or Clock())


async def identify(scope: Scope, **options: Any) -> Identity:
    return await authenticator(**options).identify(scope)


def bearing(token: str, *more: tuple[str, str]) -> Scope:
    return http([("authorization", f"Bearer {token}"), *more])


# --- the table: what is refused, and how ---------------------------------------------------


def asymmetric(name: str, payload: dict[str, Any] | None = None, **headers: Any) -> str:
    """A token of the issuer; headers may be overridden."""
    kinds: dict[str, tuple[PrivateKey, str]] = {
        "rsa": (rsa_key(), "RS256"),
        "ec": (ec_key(), "ES256"),
        "ed": (ed_key(), "EdDSA"),
    }
    key, algorithm = kinds[name]
    return sign(payload, key, algorithm, {"kid": name, **headers})


def unsigned(algorithm: object) -> str:
    return f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims())}."


def with_signature(header: dict[str, Any], signature: str = "AAAA") -> str:
    return f"{part(header)}.{part(claims())}.{signature}"


BAD_TOKENS: dict[str, tuple[Callable[[], str], type[Unauthorized]]] = {
    # shape
    "empty": (lambda: "", MalformedToken),
    "word": (lambda: "garbage", MalformedToken),
    "two parts": (lambda: "a.b", MalformedToken),
    "four parts": (lambda: USER + ".AAAA", MalformedToken),
    "five parts (an encrypted token)": (lambda: "a.b.c.d.e", MalformedToken),
    "three empty parts": (lambda: "..", MalformedToken),
    "empty payload": (lambda: f"{part(HS)}..AAAA", MalformedToken),
    "no signature": (lambda: USER.rpartition(".")[0] + ".", MalformedToken),
    "padded": (lambda: USER + "=", MalformedToken),
    "space inside": (lambda: USER.replace(".", ". ", 1), MalformedToken),
    "tab before": (lambda: "\t" + USER, MalformedToken),
    "line end after": (lambda: USER + "\n", MalformedToken),
    "two tokens": (lambda: f"{USER}, {USER}", MalformedToken),
    "not ASCII": (lambda: USER[:-1] + "é", MalformedToken),
    "standard base64": (lambda: USER.replace(".", ".+/", 1), MalformedToken),
    "quoted": (lambda: f'"{USER}"', MalformedToken),
    "just over 16 KB": (lambda: sign(claims(x="x" * 13_000)), MalformedToken),
    "1 MB": (lambda: sign(claims(x="x" * 1_000_000)), MalformedToken),
    "header is no JSON": (lambda: f"{part(b'nope')}.{part(claims())}.AAAA", MalformedToken),
    "header is a list": (lambda: f"{part([])}.{part(claims())}.AAAA", MalformedToken),
    "payload is no JSON": (lambda: forge(HS, b"nope"), MalformedToken),
    "payload is a list": (lambda: forge(HS, [1]), MalformedToken),
    "payload is deep": (lambda: forge(HS, b'{"exp":9e9,"a":' + b"[" * 5000 + b"}"), MalformedToken),
    "a number of over 64 bits": (lambda: sign(claims(number=2**64)), MalformedToken),
    "half a surrogate pair": (lambda: sign(claims(text="\ud800")), MalformedToken),
    "payload is deep and whole": (
        lambda: forge(HS, b'{"exp":9e9,"a":' + b"[" * 5000 + b"]" * 5000 + b"}"),
        MalformedToken,
    ),
    "header is deep and whole": (
        lambda: forge(b'{"alg":"HS256","a":' + b"[" * 5000 + b"]" * 5000 + b"}", claims()),
        MalformedToken,
    ),
    "kid is a number": (lambda: forge({**HS, "kid": 1}, claims()), MalformedToken),
    "critical extension": (lambda: forge({**HS, "crit": ["x"], "x": 1}, claims()), MalformedToken),
    "critical b64": (lambda: forge({**HS, "crit": ["b64"], "b64": True}, claims()), MalformedToken),
    "empty crit": (lambda: forge({**HS, "crit": []}, claims()), MalformedToken),
    "detached payload": (lambda: forge({**HS, "b64": False}, claims()), MalformedToken),
    # algorithm
    "none": (lambda: unsigned("none") + "AAAA", UnsupportedAlgorithm),
    "none without signature": (lambda: unsigned("none"), MalformedToken),
    "None": (lambda: with_signature({"alg": "None"}), UnsupportedAlgorithm),
    "NONE": (lambda: with_signature({"alg": "NONE"}), UnsupportedAlgorithm),
    "nOnE with spaces": (lambda: with_signature({"alg": " nOnE "}), UnsupportedAlgorithm),
    "none signed with the secret": (lambda: forge({"alg": "none"}, claims()), UnsupportedAlgorithm),
    "empty algorithm": (lambda: forge({"alg": ""}, claims()), UnsupportedAlgorithm),
    "no algorithm": (lambda: forge({"typ": "JWT"}, claims()), UnsupportedAlgorithm),
    "null algorithm": (lambda: forge({"alg": None}, claims()), UnsupportedAlgorithm),
    "list of algorithms": (lambda: forge({"alg": ["HS256"]}, claims()), UnsupportedAlgorithm),
    "lower-case hs256": (lambda: forge({"alg": "hs256"}, claims()), UnsupportedAlgorithm),
    "HS384": (lambda: sign(algorithm="HS384"), UnsupportedAlgorithm),
    "HS512": (lambda: sign(algorithm="HS512"), UnsupportedAlgorithm),
    "PS256": (lambda: sign(None, rsa_key(), "PS256", {"kid": "rsa"}), UnsupportedAlgorithm),
    "RS512": (lambda: sign(None, rsa_key(), "RS512", {"kid": "rsa"}), UnsupportedAlgorithm),
    "HS384 called HS256": (lambda: forge(HS, claims(), digest="sha384"), BadSymmetricToken),
    # algorithm confusion: a public key is no secret, a secret is no public key
    "HS256 with the RSA key's PEM": (
        lambda: forge({**HS, "kid": "rsa"}, claims(), public_pem(rsa_key())),
        BadSymmetricToken,
    ),
    "HS256 with the EC key's PEM": (
        lambda: forge({**HS, "kid": "ec"}, claims(), public_pem(ec_key())),
        BadSymmetricToken,
    ),
    "HS256 with the RSA key's JWK": (
        lambda: forge({**HS, "kid": "rsa"}, claims(), json.dumps(jwk(rsa_key(), "rsa")).encode()),
        BadSymmetricToken,
    ),
    "HS256 with the RSA modulus": (
        lambda: forge({**HS, "kid": "rsa"}, claims(), jwk(rsa_key(), "rsa")["n"].encode()),
        BadSymmetricToken,
    ),
    "RS256 signed with the secret": (
        lambda: forge({"alg": "RS256", "kid": "rsa"}, claims()),
        BadAsymmetricToken,
    ),
    "RS256 naming the EC key": (
        lambda: sign(None, rsa_key(), "RS256", {"kid": "ec"}),
        BadAsymmetricToken,
    ),
    "ES256 naming the RSA key": (
        lambda: sign(None, ec_key(), "ES256", {"kid": "rsa"}),
        BadAsymmetricToken,
    ),
    "EdDSA naming the EC key": (
        lambda: sign(None, ed_key(), "EdDSA", {"kid": "ec"}),
        BadAsymmetricToken,
    ),
    # keys and signatures
    "HS256 with another secret": (lambda: sign(key="x" * 40), BadSymmetricToken),
    "HS256 with an empty secret": (lambda: forge(HS, claims(), b""), BadSymmetricToken),
    "HS256 signature changed": (lambda: corrupt(USER), BadSymmetricToken),
    "HS256 signature cut": (lambda: USER[:-3], BadSymmetricToken),
    "HS256 payload changed": (
        lambda: ".".join([part(HS), part(claims(role="service_role")), USER.split(".")[2]]),
        BadSymmetricToken,
    ),
    "RS256 of another key": (
        lambda: sign(None, rsa_key("other"), "RS256", {"kid": "rsa"}),
        BadAsymmetricToken,
    ),
    "ES256 of another key": (
        lambda: sign(None, ec_key("other"), "ES256", {"kid": "ec"}),
        BadAsymmetricToken,
    ),
    "EdDSA of another key": (
        lambda: sign(None, ed_key("other"), "EdDSA", {"kid": "ed"}),
        BadAsymmetricToken,
    ),
    "RS256 signature changed": (lambda: corrupt(asymmetric("rsa")), BadAsymmetricToken),
    "ES256 signature changed": (lambda: corrupt(asymmetric("ec")), BadAsymmetricToken),
    "EdDSA signature changed": (lambda: corrupt(asymmetric("ed")), BadAsymmetricToken),
    "ES256 signature of zeros": (
        lambda: with_signature({"alg": "ES256", "kid": "ec"}, part(bytes(64))),
        BadAsymmetricToken,
    ),
    "unknown kid": (lambda: asymmetric("ec", kid="nobody"), BadAsymmetricToken),
    "kid is a path": (lambda: asymmetric("ec", kid="../../../dev/null"), BadAsymmetricToken),
    "no kid among several keys": (lambda: sign(None, ec_key(), "ES256"), BadAsymmetricToken),
    "brings its own key": (
        lambda: sign(None, ec_key("own"), "ES256", {"jwk": jwk(ec_key("own"), "own"), "kid": "own"}),
        BadAsymmetricToken,
    ),
    "says where its key is": (
        lambda: sign(None, ec_key("own"), "ES256", {"jku": "http://127.0.0.1:1/", "kid": "own"}),
        BadAsymmetricToken,
    ),
    # times
    "no exp": (lambda: sign(claims(exp=None)), BadSymmetricToken),
    "no exp (ES256)": (lambda: asymmetric("ec", claims(exp=None)), BadAsymmetricToken),
    "exp is null": (lambda: forge(HS, {"exp": None}), BadSymmetricToken),
    "exp is text": (lambda: forge(HS, claims(exp=str(int(NOW) + 60))), BadSymmetricToken),
    "exp is true": (lambda: forge(HS, claims(exp=True)), BadSymmetricToken),
    "exp is a list": (lambda: forge(HS, claims(exp=[NOW + 60])), BadSymmetricToken),
    "exp is infinite": (lambda: forge(HS, b'{"exp":1e999}'), BadSymmetricToken),
    "exp is no number": (lambda: forge(HS, b'{"exp":NaN}'), BadSymmetricToken),
    "exp is beyond all numbers": (lambda: forge(HS, b'{"exp":1' + b"0" * 400 + b"}"), BadSymmetricToken),
    "exp twice, the last one past": (lambda: forge(HS, b'{"exp":9e9,"exp":1}'), ExpiredToken),
    "expired": (lambda: sign(claims(exp=NOW - 1)), ExpiredToken),
    "expired (RS256)": (lambda: asymmetric("rsa", claims(exp=NOW - 1)), ExpiredToken),
    "expires right now": (lambda: sign(claims(exp=NOW)), ExpiredToken),
    "exp is zero": (lambda: sign(claims(exp=0)), ExpiredToken),
    "exp is negative": (lambda: sign(claims(exp=-1)), ExpiredToken),
    "expired and badly signed": (lambda: sign(claims(exp=NOW - 1), "x" * 40), BadSymmetricToken),
    "not yet valid": (lambda: sign(claims(nbf=NOW + 1)), BadSymmetricToken),
    "not yet valid (EdDSA)": (lambda: asymmetric("ed", claims(nbf=NOW + 1)), BadAsymmetricToken),
    "nbf is text": (lambda: forge(HS, claims(nbf="0")), BadSymmetricToken),
    "nbf is null": (lambda: forge(HS, {"exp": NOW + 60, "nbf": None}), BadSymmetricToken),
}
UNKNOWN_KEYS: dict[str, tuple[Callable[[], str], type[Unauthorized]]] = {
    "unknown publishable key": (lambda: "sb_publishable_three", MalformedToken),
    "unknown secret key": (lambda: "sb_secret_two", MalformedToken),
    "beginning of a secret key": (lambda: SECRET_KEY[:-1], MalformedToken),
    "secret key with more": (lambda: SECRET_KEY + "x", MalformedToken),
    "prefix alone": (lambda: "sb_", MalformedToken),
}
REFUSED = BAD_TOKENS | UNKNOWN_KEYS


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("bare", [False, True], ids=["bearer", "bare"])
async def test_a_bad_token_is_refused_with_its_own_code(name: str, bare: bool) -> None:
    make, expected = REFUSED[name]
    value = make() if bare else f"Bearer {make()}"
    with pytest.raises(Unauthorized) as refusal:
        await identify(http([("authorization", value)]))
    assert type(refusal.value) is expected
    assert errors.HTTP[expected].status == 401


@pytest.mark.parametrize("name", REFUSED)
async def test_a_bad_token_is_refused_for_a_websocket_too(name: str) -> None:
    token = REFUSED[name][0]()
    with pytest.raises(Unauthorized):
        await identify(websocket(query=f"jwt={token}"))
    with pytest.raises(Unauthorized):
        await identify(websocket(subprotocols=[f"jwt-{token}"]))


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_a_bad_token_is_not_rescued_by_an_apikey_beside_it(name: str) -> None:
    token = BAD_TOKENS[name][0]()
    with pytest.raises(Unauthorized):
        await identify(bearing(token, ("apikey", SECRET_KEY)))


def test_the_table_is_long_enough() -> None:
    assert len(BAD_TOKENS) >= 40


ACCEPTED: dict[str, Callable[[], str]] = {
    "HS256": lambda: USER,
    "RS256": lambda: asymmetric("rsa"),
    "ES256": lambda: asymmetric("ec"),
    "EdDSA": lambda: asymmetric("ed"),
    "just under 16 KB": lambda: sign(claims(x="x" * 12_000)),
    "any audience": lambda: sign(claims(aud=["a", "b"])),
    "no audience": lambda: sign(claims(aud=None)),
    "any issuer": lambda: sign(claims(iss="https://anyone.example")),
    "issued in the future": lambda: sign(claims(iat=NOW + 1000)),
    "issued never": lambda: forge(HS, claims(iat="yesterday")),
    "fraction of a second left": lambda: sign(claims(exp=NOW + 0.5)),
    "valid from right now": lambda: sign(claims(nbf=NOW)),
    "without type": lambda: forge({"alg": "HS256"}, claims()),
    "HS256 with a kid": lambda: sign(headers={"kid": "anything"}),
    "subject is a number": lambda: forge(HS, claims(sub=7)),
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_a_good_token_is_accepted_and_its_claims_are_told(name: str) -> None:
    identity = await identify(bearing(ACCEPTED[name]()))
    assert identity.claims["role"] == "authenticated"
    assert identity.subprotocol is None


# --- Authorization -------------------------------------------------------------------------


async def test_no_credentials_at_all_is_a_case_of_its_own() -> None:
    for scope in (
        http(),
        http([("accept", "*/*")]),
        websocket(),
        websocket(query="a=1", subprotocols=["chat"]),
    ):
        with pytest.raises(NoCredentials):
            await identify(scope)


@pytest.mark.parametrize(
    "value",
    [f"Bearer {USER}", f"bearer {USER}", f"BEARER {USER}", f"Bearer    {USER}", f" Bearer {USER} ", USER],
    ids=["usual", "lower case", "upper case", "several spaces", "spaces around", "bare token"],
)
async def test_a_token_may_be_written_in_several_ways(value: str) -> None:
    assert (await identify(http([("authorization", value)]))).claims["sub"] == "user-1"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer\t{USER}",
        f"Bearer{USER}",
        f"Basic {USER}",
        "Basic dXNlcjpwYXNz",
        f"Token {USER}",
        f"Bearer Bearer {USER}",
        f"Bearer {USER} {USER}",
        f"{USER} Bearer",
    ],
)
async def test_any_other_way_is_refused(value: str) -> None:
    with pytest.raises(MalformedToken):
        await identify(http([("authorization", value)]))


@pytest.mark.parametrize("second", [USER, "garbage", ""], ids=["same", "garbage", "empty"])
async def test_two_authorization_headers_are_refused(second: str) -> None:
    good = ("authorization", f"Bearer {USER}")
    for headers in ([good, ("authorization", second)], [("authorization", second), good]):
        with pytest.raises(MalformedToken, match="Authorization"):
            await identify(http(headers))


async def test_two_apikey_headers_are_refused() -> None:
    with pytest.raises(MalformedToken, match="apikey"):
        await identify(http([("apikey", ANON), ("apikey", ANON)]))


async def test_the_scope_of_a_token_is_passed_on_as_it_is() -> None:
    guard = authenticator()
    scope = bearing(USER, ("apikey", ANON))
    for _ in range(2):
        assert (await guard.identify(scope)).scope is scope


async def test_an_authorization_header_alone_decides() -> None:
    identity = await identify(bearing(USER, ("apikey", SERVICE)))
    assert identity.claims["role"] == "authenticated"
    with pytest.raises(BadSymmetricToken):
        await identify(bearing(corrupt(USER), ("apikey", SERVICE)))
    assert (await identify(bearing(USER, ("apikey", "garbage")))).claims["role"] == "authenticated"


async def test_no_header_of_the_client_sets_claims() -> None:
    forged = [("auth", "{}"), ("x-claims", '{"role":"service_role"}'), ("request.auth", "service_role")]
    assert (await identify(bearing(USER, *forged))).claims == claims()


# --- apikey --------------------------------------------------------------------------------


def authorizations(identity: Identity) -> list[str]:
    return [value.decode() for name, value in identity.scope["headers"] if name == b"authorization"]


@pytest.mark.parametrize(("key", "role"), ROLES.items(), ids=["anon", "publishable", "service", "secret"])
async def test_an_apikey_stands_for_its_role_when_there_is_no_authorization(key: str, role: str) -> None:
    scope = http([("x-own", "1"), ("apikey", key)])
    identity = await identify(scope)
    assert identity.claims["role"] == role
    assert authorizations(identity) == [f"Bearer {ANON if role == 'anon' else SERVICE}"]
    assert (b"x-own", b"1") in identity.scope["headers"]
    assert all(name != b"authorization" for name, _ in scope["headers"]), "the request itself is unchanged"


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer  ", ""], ids=["bearer", "lower case", "bare"])
@pytest.mark.parametrize(("key", "role"), ROLES.items(), ids=["anon", "publishable", "service", "secret"])
async def test_an_apikey_counts_beside_an_authorization_with_a_gateway_key(
    scheme: str, key: str, role: str
) -> None:
    for beside in (PUBLISHABLE, "sb_publishable_unknown"):
        identity = await identify(http([("authorization", scheme + beside), ("apikey", key)]))
        assert identity.claims["role"] == role
        assert authorizations(identity) == [f"Bearer {ANON if role == 'anon' else SERVICE}"]


async def test_a_bad_apikey_is_not_rescued_by_the_gateway_key_beside_it() -> None:
    with pytest.raises(MalformedToken):
        await identify(http([("authorization", f"Bearer {SECRET_KEY}"), ("apikey", "sb_secret_unknown")]))


@pytest.mark.parametrize("scheme", ["Bearer ", ""], ids=["bearer", "bare"])
@pytest.mark.parametrize(
    ("key", "role"),
    [(PUBLISHABLE, "anon"), ("sb_publishable_two", "anon"), (SECRET_KEY, "service_role")],
)
async def test_a_gateway_key_in_authorization_counts_by_itself(scheme: str, key: str, role: str) -> None:
    identity = await identify(http([("authorization", scheme + key)]))
    assert identity.claims["role"] == role
    assert authorizations(identity) == [f"Bearer {ANON if role == 'anon' else SERVICE}"]


@pytest.mark.parametrize(
    "value",
    ["", "garbage", "sb_publishable_three", USER, f"Bearer {ANON}", ANON + " ", SECRET],
    ids=["empty", "garbage", "unknown key", "a user's token", "with scheme", "with space", "the secret"],
)
async def test_an_apikey_that_is_none_of_the_projects_is_refused(value: str) -> None:
    with pytest.raises(MalformedToken):
        await identify(http([("apikey", value)]))


@pytest.mark.parametrize(
    "empty", [{"anon_key": ""}, {"service_role_key": ""}, {"publishable": ("",)}, {"secret": ("",)}]
)
async def test_a_key_that_the_project_does_not_have_is_nobodys(empty: dict[str, Any]) -> None:
    with pytest.raises(MalformedToken):
        await identify(http([("apikey", "")]), **empty)


async def test_an_expired_role_token_opens_nothing() -> None:
    with pytest.raises(ExpiredToken):
        await identify(http([("apikey", PUBLISHABLE)]), clock=Clock(NOW + 3600))


# --- keys, issuer, audience, leeway --------------------------------------------------------


async def test_without_a_secret_no_hs256_token_is_accepted() -> None:
    for token in (USER, forge(HS, claims(), b"")):
        with pytest.raises(BadSymmetricToken):
            await identify(bearing(token), jwt_secret="")


async def test_without_a_key_set_no_asymmetric_token_is_accepted() -> None:
    guard = Authenticator(keys(), Auth(), None, Clock())
    with pytest.raises(BadAsymmetricToken):
        await guard.identify(bearing(asymmetric("ec")))


async def test_a_short_secret_works_without_a_warning() -> None:
    assert (await identify(bearing(sign(key="short")), jwt_secret="short")).claims["sub"] == "user-1"


async def test_a_token_without_kid_is_checked_with_the_only_key() -> None:
    only = JwksSource(None, {"keys": [jwk(ec_key(), None)]})
    assert (await identify(bearing(sign(None, ec_key(), "ES256")), jwks=only)).claims["sub"] == "user-1"


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({"iss": "https://us.example"}, True),
        ({"iss": "https://them.example"}, False),
        ({"iss": ["https://us.example"]}, False),
        ({}, False),
    ],
    ids=["ours", "another", "list", "none"],
)
async def test_the_issuer_is_checked_when_configured(changes: dict[str, Any], good: bool) -> None:
    token = forge(HS, claims(**changes))
    if good:
        assert await identify(bearing(token), auth=Auth(issuer="https://us.example"))
    else:
        with pytest.raises(BadSymmetricToken):
            await identify(bearing(token), auth=Auth(issuer="https://us.example"))


@pytest.mark.parametrize(
    ("audience", "good"),
    [("us", True), (["them", "us"], True), ("them", False), (["them"], False), (None, False), (7, False)],
)
async def test_the_audience_is_checked_when_configured(audience: object, good: bool) -> None:
    token = forge(HS, claims(aud=audience))
    if good:
        assert await identify(bearing(token), auth=Auth(audience="us"))
    else:
        with pytest.raises(BadSymmetricToken):
            await identify(bearing(token), auth=Auth(audience="us"))


async def test_the_leeway_forgives_clocks_that_differ_but_no_more() -> None:
    lenient = Auth(leeway_s=30)
    assert await identify(bearing(sign(claims(exp=NOW - 29))), auth=lenient)
    assert await identify(bearing(sign(claims(nbf=NOW + 30))), auth=lenient)
    with pytest.raises(ExpiredToken):
        await identify(bearing(sign(claims(exp=NOW - 30))), auth=lenient)
    with pytest.raises(BadSymmetricToken):
        await identify(bearing(sign(claims(nbf=NOW + 31))), auth=lenient)


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        ("HS512", "Unsupported JWT algorithm HS512"),
        ("<script>alert(1)</script>", "Unsupported JWT algorithm"),
    ],
)
async def test_the_refusal_names_an_algorithm_but_repeats_no_text_of_the_client(
    algorithm: str, said: str
) -> None:
    with pytest.raises(UnsupportedAlgorithm) as refusal:
        await identify(bearing(forge({"alg": algorithm}, claims())))
    assert refusal.value.message == said


# --- what is remembered --------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every token whose signature was looked at."""
    seen: list[bytes] = []
    genuine = jwt.decode

    def decode(token: bytes, *args: Any, **options: Any) -> Any:
        seen.append(token)
        return genuine(token, *args, **options)

    monkeypatch.setattr(jwt, "decode", decode)
    return seen


@pytest.mark.parametrize(
    "scope",
    [
        bearing(USER),
        http([("authorization", USER)]),
        http([("apikey", PUBLISHABLE)]),
        websocket(query=f"jwt={USER}"),
    ],
    ids=["bearer", "bare", "apikey", "websocket"],
)
async def test_a_verified_token_is_not_verified_again(scope: Scope, decoded: list[bytes]) -> None:
    guard = authenticator()
    first = await guard.identify(scope)
    assert (await guard.identify(scope)).claims is first.claims
    assert len(decoded) == 1


async def test_a_remembered_token_expires_all_the_same() -> None:
    clock = Clock()
    guard = authenticator(clock=clock)
    await guard.identify(bearing(USER))
    clock.now = NOW + 3599.9
    await guard.identify(bearing(USER))
    clock.now = NOW + 3600
    for _ in range(2):
        with pytest.raises(ExpiredToken):
            await guard.identify(bearing(USER))


async def test_a_remembered_token_is_refused_before_its_time_when_the_clock_is_set_back() -> None:
    clock = Clock()
    guard = authenticator(clock=clock)
    token = sign(claims(nbf=NOW - 10))
    await guard.identify(bearing(token))
    clock.now = NOW - 11
    with pytest.raises(BadSymmetricToken):
        await guard.identify(bearing(token))


async def test_a_refused_token_is_not_remembered(decoded: list[bytes]) -> None:
    guard = authenticator()
    for _ in range(2):
        with pytest.raises(BadSymmetricToken):
            await guard.identify(bearing(corrupt(USER)))
    assert len(decoded) == 2


async def test_other_keys_empty_the_memory() -> None:
    guard = authenticator()
    await guard.identify(bearing(USER))
    await guard.identify(http([("apikey", PUBLISHABLE)]))
    guard.replace(keys(jwt_secret="y" * 40, publishable=()), Auth(), None)
    with pytest.raises(BadSymmetricToken):
        await guard.identify(bearing(USER))
    with pytest.raises(MalformedToken):
        await guard.identify(http([("apikey", PUBLISHABLE)]))


async def test_another_issuer_or_audience_empties_the_memory() -> None:
    guard = authenticator()
    await guard.identify(bearing(USER))
    guard.replace(keys(), Auth(issuer="https://us.example"), None)
    with pytest.raises(BadSymmetricToken):
        await guard.identify(bearing(USER))


async def test_a_new_key_set_of_the_issuer_empties_the_memory() -> None:
    document = {"keys": [jwk(ec_key(), "ec")]}
    clock = Clock(0)

    async def fetch(url: str) -> bytes:
        return json.dumps(document).encode()

    guard = authenticator(jwks=JwksSource("http://issuer.test", None, fetch, clock))
    token = asymmetric("ec")
    await guard.identify(bearing(token))
    document["keys"] = [jwk(ec_key("new"), "new")]
    clock.now = 60
    await guard.identify(bearing(sign(None, ec_key("new"), "ES256", {"kid": "new"})))
    with pytest.raises(BadAsymmetricToken):
        await guard.identify(bearing(token))


async def test_what_was_verified_with_old_keys_is_not_remembered_under_new_ones() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def fetch(url: str) -> bytes:
        asked.set()
        await answer.wait()
        return json.dumps(published()).encode()

    guard = authenticator(jwks=JwksSource("http://issuer.test", None, fetch))
    token = asymmetric("ec")
    waiting = asyncio.create_task(guard.identify(bearing(token)))
    await asked.wait()
    guard.replace(keys(), Auth(), None)
    answer.set()
    await waiting
    with pytest.raises(BadAsymmetricToken):
        await guard.identify(bearing(token))


async def test_the_memory_is_bounded_and_keeps_what_is_used(
    monkeypatch: pytest.MonkeyPatch, decoded: list[bytes]
) -> None:
    monkeypatch.setattr(auth_module, "REMEMBERED", 3)
    guard = authenticator()
    first, *others = [sign(claims(sub=f"user-{number}")) for number in range(6)]
    await guard.identify(bearing(first))
    for token in others:
        await guard.identify(bearing(token))
        await guard.identify(bearing(first))
    assert len(decoded) == 6
    await guard.identify(bearing(others[0]))
    assert len(decoded) == 7


# --- WebSockets ----------------------------------------------------------------------------


async def test_a_websocket_may_carry_its_token_in_the_query_where_the_function_does_not_see_it() -> None:
    scope = websocket(query=f"room=a%20b&jwt={USER}&x=1", subprotocols=["chat"])
    identity = await identify(scope)
    assert identity.claims["sub"] == "user-1"
    assert identity.scope["query_string"] == b"room=a%20b&x=1"
    assert identity.scope["subprotocols"] == ["chat"]
    assert identity.subprotocol is None


async def test_a_websocket_may_carry_its_token_as_a_subprotocol_which_is_echoed_when_alone() -> None:
    identity = await identify(websocket(subprotocols=[f"jwt-{USER}"]))
    assert identity.claims["sub"] == "user-1"
    assert identity.subprotocol == f"jwt-{USER}"
    assert identity.scope["subprotocols"] == []
    assert all(name != b"sec-websocket-protocol" for name, _ in identity.scope["headers"])


async def test_beside_other_subprotocols_the_token_is_removed_and_the_function_chooses() -> None:
    identity = await identify(websocket(subprotocols=["chat", f"jwt-{USER}", "chat.v2"]))
    assert identity.subprotocol is None
    assert identity.scope["subprotocols"] == ["chat", "chat.v2"]
    assert (b"sec-websocket-protocol", b"chat, chat.v2") in identity.scope["headers"]
    assert not any(USER.encode() in value for _, value in identity.scope["headers"])


@pytest.mark.parametrize(
    "scope",
    [
        websocket(query=f"jwt={USER}&jwt={USER}"),
        websocket(query=f"jwt={USER}", subprotocols=[f"jwt-{USER}"]),
        websocket(subprotocols=[f"jwt-{USER}", f"jwt-{USER}"]),
        websocket(query="jwt"),
        websocket(query="jwt="),
        websocket(subprotocols=["jwt-"]),
    ],
    ids=["twice in the query", "in both", "two subprotocols", "no value", "empty value", "empty subprotocol"],
)
async def test_a_websocket_carries_exactly_one_token(scope: Scope) -> None:
    with pytest.raises(MalformedToken):
        await identify(scope)


@pytest.mark.parametrize("query", [f"JWT={USER}", f"xjwt={USER}", f"jwt2={USER}", f"a=1;jwt={USER}"])
async def test_only_the_parameter_called_jwt_counts(query: str) -> None:
    with pytest.raises(NoCredentials):
        await identify(websocket(query=query))


async def test_a_gateway_key_is_no_token_of_a_websocket() -> None:
    for scope in (websocket(query=f"jwt={SECRET_KEY}"), websocket(subprotocols=[f"jwt-{SECRET_KEY}"])):
        with pytest.raises(MalformedToken):
            await identify(scope)


@pytest.mark.parametrize("header", [("authorization", f"Bearer {USER}"), ("apikey", ANON)])
async def test_the_headers_of_a_websocket_come_before_its_query(header: tuple[str, str]) -> None:
    identity = await identify(websocket([header], query="jwt=garbage", subprotocols=["jwt-garbage"]))
    assert identity.claims["role"] in ("authenticated", "anon")
    assert identity.scope["query_string"] == b"jwt=garbage"
    with pytest.raises(BadSymmetricToken):
        await identify(websocket([("authorization", f"Bearer {corrupt(USER)}")], query=f"jwt={USER}"))


async def test_the_query_of_plain_http_carries_no_token() -> None:
    with pytest.raises(NoCredentials):
        await identify(http(query=f"jwt={USER}"))


# --- whatever comes ------------------------------------------------------------------------


@given(st.binary(max_size=80) | st.from_regex(rb"(?i:bearer )?[\w-]+\.[\w-]+\.[\w-]+", fullmatch=True))
def test_whatever_the_header_says_nobody_gets_in_without_a_key(value: bytes) -> None:
    scope = {**http(), "headers": [(b"authorization", value), (b"apikey", value)]}
    with pytest.raises(Unauthorized):
        asyncio.run(identify(scope))


@given(st.binary(max_size=60), st.integers(0, 200))
def test_a_token_with_anything_changed_is_refused(noise: bytes, place: int) -> None:
    raw = USER.encode()
    changed = raw[:place] + noise + raw[place + len(noise) :]
    if changed == raw or changed.strip(b" ") == raw:
        return
    scope = {**http(), "headers": [(b"authorization", b"Bearer " + changed)]}
    with pytest.raises(Unauthorized):
        asyncio.run(identify(scope))
