"""Whether a JSON Web Token is good: shape, algorithm, signature, issuer, audience, times.

Follows RFC 7519 and the advice of RFC 8725: the key decides about the algorithm, the
token only says which key it means.
"""

from __future__ import annotations

import base64
import math
import re
import warnings
from typing import Any, NamedTuple

import jwt
import msgspec
from jwt import PyJWK
from jwt.types import Options
from jwt.warnings import InsecureKeyLengthWarning

from runtime.errors import (
    BadAsymmetricToken,
    BadSymmetricToken,
    ExpiredToken,
    MalformedToken,
    Unauthorized,
    UnsupportedAlgorithm,
)
from runtime.gateway.jwks import JwksSource
from runtime.project.settings import Auth

MAX_BYTES = 16 * 1024

_SHAPE = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_SPEAKABLE = re.compile(r"[A-Za-z0-9-]{1,16}")
_ASYMMETRIC = frozenset({"RS256", "ES256", "EdDSA"})


class Verified(NamedTuple):
    """A token whose signature is good.

    Attributes:
        claims: its payload; shared between requests, so nobody changes it.
        begins, ends: seconds since the epoch, the leeway included.
        refusal: what to raise before its time; after it, the token is expired.
    """

    claims: dict[str, Any]
    begins: float
    ends: float
    refusal: type[Unauthorized]

    def check(self, now: float) -> None:
        """Raise unless the token is valid at this moment (seconds since the epoch)."""
        if now >= self.ends:
            raise ExpiredToken
        if now < self.begins:
            raise self.refusal


class Verifier:
    """Verifies tokens with the project's keys.

    Args:
        secret: for HS256; empty: such tokens are refused.
        auth: issuer, audience and leeway.
        jwks: for RS256, ES256 and EdDSA; None: such tokens are refused.
    """

    def __init__(self, secret: str, auth: Auth, jwks: JwksSource | None) -> None:
        self.auth, self.jwks = auth, jwks
        self.secret = _symmetric(secret) if secret else None
        self.options: Options = {
            "require": ["exp"],
            "verify_exp": False,  # the times are checked on every use, by `Verified.check`
            "verify_nbf": False,
            "verify_iat": False,
            "verify_sub": False,
            "verify_jti": False,
            "verify_aud": auth.audience is not None,
            "verify_iss": auth.issuer is not None,
        }

    async def verify(self, token: bytes) -> Verified:
        """Check everything about a token but whether this is its time.

        Raises:
            Unauthorized: a subclass says what is wrong.
        """
        header = _header(token)
        algorithm = header.get("alg")
        if algorithm == "HS256":
            return self._decode(token, self.secret, BadSymmetricToken)
        if not isinstance(algorithm, str) or algorithm not in _ASYMMETRIC:
            raise UnsupportedAlgorithm(_unsupported(algorithm))
        key = await self.jwks.key(header.get("kid")) if self.jwks is not None else None
        return self._decode(token, key, BadAsymmetricToken)

    def _decode(self, token: bytes, key: PyJWK | None, refusal: type[Unauthorized]) -> Verified:
        if key is None:
            raise refusal
        claims = self._claims(token, key, refusal)
        begins = _moment(claims["nbf"], refusal) if "nbf" in claims else -math.inf
        ends = _moment(claims["exp"], refusal)
        _check_that_they_travel(claims)
        leeway = self.auth.leeway_s
        return Verified(claims, begins - leeway, ends + leeway, refusal)

    def _claims(self, token: bytes, key: PyJWK, refusal: type[Unauthorized]) -> dict[str, Any]:
        try:
            with warnings.catch_warnings():
                # Short secrets are the project's business: outside loopback it does not start with one.
                warnings.simplefilter("ignore", InsecureKeyLengthWarning)
                return jwt.decode(
                    token,
                    key,
                    algorithms=[key.algorithm_name],
                    options=self.options,
                    audience=self.auth.audience,
                    issuer=self.auth.issuer,
                )
        except jwt.InvalidSignatureError:
            raise refusal from None
        except jwt.DecodeError:
            raise MalformedToken from None
        except jwt.PyJWTError:
            raise refusal from None


def _check_that_they_travel(claims: dict[str, Any]) -> None:
    """Refuse what JSON can say and a frame cannot: integers over 64 bits, half a surrogate pair."""
    try:
        msgspec.msgpack.encode(claims)
    except (OverflowError, ValueError):
        raise MalformedToken("The token's claims hold a number or a text that cannot be passed on") from None


def _header(token: bytes) -> dict[str, Any]:
    """What the token says about itself, which nobody may believe yet."""
    if len(token) > MAX_BYTES or not _SHAPE.fullmatch(token):
        raise MalformedToken
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        raise MalformedToken from None
    if "crit" in header:  # names extensions that must be understood; we understand none
        raise MalformedToken
    return header


def _symmetric(secret: str) -> PyJWK:
    encoded = base64.urlsafe_b64encode(secret.encode()).rstrip(b"=").decode()
    return PyJWK.from_dict({"kty": "oct", "k": encoded}, "HS256")


def _moment(value: object, refusal: type[Unauthorized]) -> float:
    """A NumericDate of RFC 7519: seconds since the epoch, a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refusal
    try:
        moment = float(value)
    except OverflowError:
        raise refusal from None
    if not math.isfinite(moment):
        raise refusal
    return moment


def _unsupported(algorithm: object) -> str:
    """Names the algorithm only when it looks like one: a token must not write our messages."""
    if isinstance(algorithm, str) and _SPEAKABLE.fullmatch(algorithm):
        return f"Unsupported JWT algorithm {algorithm}"
    return UnsupportedAlgorithm.default
