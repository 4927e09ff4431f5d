"""The signing secret and the keys made with it.

The names in the environment are those of a self-hosted Supabase. On loopback a secret is
made on first use and kept in `supabase/.functions/`; anywhere else a person must choose one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import warnings
from collections.abc import Mapping

import jwt
import msgspec

from runtime.errors import KeysError
from runtime.project.secretfile import ensure_secret
from runtime.project.settings import Keys

MIN_SECRET_BYTES = 32
_PUBLISHED = frozenset(
    {
        "super-secret-jwt-token-with-at-least-32-characters-long",
        "your-super-secret-jwt-token-with-at-least-32-characters-long",
    }
)
_MAKE_ONE = "make one with `openssl rand -hex 32` and set JWT_SECRET to it in the server's environment"

# Fixed, so that the same secret gives the same keys on every run and every machine.
_ISSUED_AT = 1_735_689_600  # 2025-01-01
_EXPIRES_AT = 4_102_444_800  # 2100-01-01


class _Key(msgspec.Struct):
    kty: str


class _KeySet(msgspec.Struct):
    """The least that every JWKS has (RFC 7517)."""

    keys: list[_Key]


def load_keys(root: str, environ: Mapping[str, str], *, loopback: bool) -> Keys:
    """The keys of the project at `root`.

    Args:
        loopback: only this machine can call; a secret is made if there is none.

    Raises:
        KeysError: a value cannot be used, or outside loopback there is none or a weak one.
    """
    given = _given_secret(environ)
    jwks, jwks_url = _jwks(environ.get("SUPABASE_JWKS", "").strip(), root)
    if not loopback:
        _check_strength(given, has_jwks=jwks is not None or jwks_url is not None)
    secret = given or (ensure_secret(root) if loopback else "")
    local = secret if loopback else ""
    return Keys(
        jwt_secret=secret,
        anon_key=environ.get("SUPABASE_ANON_KEY") or sign_role_key(secret, "anon"),
        service_role_key=environ.get("SUPABASE_SERVICE_ROLE_KEY") or sign_role_key(secret, "service_role"),
        publishable=_named(environ, "SUPABASE_PUBLISHABLE_KEY") or _derived(local, "publishable", 22),
        secret=_named(environ, "SUPABASE_SECRET_KEY") or _derived(local, "secret", 32),
        jwks=jwks,
        jwks_url=jwks_url,
        generated=bool(secret) and not given,
    )


def sign_role_key(secret: str, role: str) -> str:
    """The anon or service-role key: an HS256 token; empty without a secret.

    Raises:
        KeysError: the secret cannot sign.
    """
    if not secret:
        return ""
    claims = {"iss": "functions", "role": role, "iat": _ISSUED_AT, "exp": _EXPIRES_AT}
    try:
        with warnings.catch_warnings():
            # It would warn of a short secret, which is refused outside loopback and fine within.
            warnings.simplefilter("ignore")
            return jwt.encode(claims, secret, algorithm="HS256")
    except jwt.InvalidKeyError:
        raise KeysError(
            "holds an asymmetric key, which cannot sign HS256 tokens", where="JWT_SECRET", remedy=_MAKE_ONE
        ) from None


def _given_secret(environ: Mapping[str, str]) -> str:
    secret = environ.get("JWT_SECRET", "")
    try:
        secret.encode()
    except UnicodeEncodeError:
        raise KeysError("is not UTF-8", where="JWT_SECRET", remedy=_MAKE_ONE) from None
    return secret


def _check_strength(secret: str, *, has_jwks: bool) -> None:
    if not secret and has_jwks:
        return
    if not secret:
        problem = "is not set, and neither is SUPABASE_JWKS; outside loopback tokens must be checked"
    elif secret in _PUBLISHED:
        problem = "is a published demo secret, with which anyone can sign tokens"
    elif len(secret.encode()) < MIN_SECRET_BYTES:
        problem = f"is shorter than {MIN_SECRET_BYTES} bytes"
    else:
        return
    raise KeysError(problem, where="JWT_SECRET", remedy=_MAKE_ONE)


def _derived(secret: str, kind: str, length: int) -> tuple[str, ...]:
    """A local `sb_…` key: it changes with the secret and tells nothing about it."""
    if not secret:
        return ()
    digest = hmac.digest(secret.encode(), f"sb_{kind}".encode(), hashlib.sha256)
    return (f"sb_{kind}_{base64.urlsafe_b64encode(digest).decode()[:length]}",)


def _named(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The keys in `NAME` and in `NAMES`, the latter a JSON object of them; "default" comes first."""
    single, many = environ.get(name, ""), environ.get(f"{name}S", "").strip()
    try:
        by_name = msgspec.json.decode(many, type=dict[str, str]) if many else {}
    except (msgspec.MsgspecError, UnicodeError):
        raise KeysError(
            "is not a JSON object of keys by name",
            where=f"{name}S",
            remedy=f"""write {name}S='{{"default": "sb_…"}}', or set {name}""",
        ) from None
    keys = [single, by_name.pop("default", ""), *by_name.values()]
    return tuple(dict.fromkeys(key for key in keys if key))


def _jwks(value: str, root: str) -> tuple[dict[str, object] | None, str | None]:
    """The key set, or the URL of one, that `SUPABASE_JWKS` gives."""
    if not value:
        return None, None
    if value.lower().startswith(("http://", "https://")):
        return None, value
    return _parse_jwks(value if value.startswith(("{", "[")) else _read_jwks(os.path.join(root, value))), None


def _read_jwks(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError):
        # What it holds is not shown: it may be key material with a typo in front.
        raise KeysError(
            "is neither JSON nor a URL, nor a file that can be read",
            where="SUPABASE_JWKS",
            remedy='set it to {"keys": […]}, to an http(s) URL, or to the path of a file',
        ) from None


def _parse_jwks(text: str | bytes) -> dict[str, object]:
    try:
        msgspec.json.decode(text, type=_KeySet)
        return msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeError):
        raise KeysError(
            "is not a JSON Web Key Set",
            where="SUPABASE_JWKS",
            remedy='set it to {"keys": […]} with a "kty" in every key, as the issuer publishes it',
        ) from None
