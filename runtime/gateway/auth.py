"""Who is calling: finds the credentials of a request and turns them into claims."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

from runtime.errors import MalformedToken, NoCredentials
from runtime.gateway.jwks import JwksSource
from runtime.gateway.tokens import Verified, Verifier
from runtime.project.settings import Auth, Keys

REMEMBERED = 4096

_SUBPROTOCOL = "jwt-"


class Identity(NamedTuple):
    """Who calls.

    Attributes:
        claims: the verified payload of the token; shared, so nobody changes it.
        scope: what the function may see: the very scope of the request when nothing had to change.
        subprotocol: to be echoed when the WebSocket is accepted; None: the function's choice.
    """

    claims: dict[str, Any]
    scope: Scope
    subprotocol: str | None = None


class Authenticator:
    """Checks credentials, and remembers tokens that were good until they expire.

    Args:
        keys: the project's keys.
        auth: issuer, audience and leeway.
        jwks: the issuer's public keys; None: there are none.
        clock: seconds since the epoch.
    """

    def __init__(
        self, keys: Keys, auth: Auth, jwks: JwksSource | None, clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self.replace(keys, auth, jwks)

    def replace(self, keys: Keys, auth: Auth, jwks: JwksSource | None) -> None:
        """Use other keys from now on; everything remembered is forgotten."""
        self._verifier = Verifier(keys.jwt_secret, auth, jwks)
        self._roles = _roles(keys)
        self._forget()
        if jwks is not None:
            jwks.on_change = self._forget

    async def identify(self, scope: Scope) -> Identity:
        """The caller of a request or WebSocket.

        Raises:
            Unauthorized: a subclass says what is wrong.
        """
        authorization, apikey = _credentials(scope)
        if authorization is not None:
            claims = self._recall(authorization)
            if claims is not None:
                return Identity(claims, scope)
            token = _token(authorization)
            if not token.startswith(b"sb_"):
                return Identity(await self._verify(authorization, token), scope)
            apikey = token if apikey is None else apikey
        if apikey is not None:
            return await self._as_role(scope, apikey)
        if scope["type"] == "websocket":
            return await self._as_socket(scope)
        raise NoCredentials

    async def _as_role(self, scope: Scope, apikey: bytes) -> Identity:
        token = self._role(apikey)
        claims = self._recall(token) or await self._verify(token, token)
        headers = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        headers.append((b"authorization", b"Bearer " + token))
        return Identity(claims, {**scope, "headers": headers})

    async def _as_socket(self, scope: Scope) -> Identity:
        in_query, query = _take_from_query(scope["query_string"])
        offered: list[str] = scope["subprotocols"]
        in_protocols = [name for name in offered if name.startswith(_SUBPROTOCOL)]
        tokens = in_query + [name.removeprefix(_SUBPROTOCOL).encode() for name in in_protocols]
        if not tokens:
            raise NoCredentials
        if len(tokens) > 1:
            raise MalformedToken("More than one token was given")
        claims = self._recall(tokens[0]) or await self._verify(tokens[0], tokens[0])
        left = [name for name in offered if name not in in_protocols]
        headers = _offer(scope["headers"], left)
        seen = {**scope, "query_string": query, "subprotocols": left, "headers": headers}
        return Identity(claims, seen, offered[0] if in_protocols and not left else None)

    def _role(self, apikey: bytes) -> bytes:
        """The token of the role that a key stands for."""
        digest, found = _digest(apikey), None
        for known, token in self._roles:  # to the end, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                found = token
        if found is None:
            raise MalformedToken("The API key is not one of this project's")
        return found

    def _recall(self, credential: bytes) -> dict[str, Any] | None:
        """The claims of a credential that was good before, if this is still its time."""
        digest = _digest(credential)
        verified = self._remembered.get(digest)
        if verified is None:
            return None
        verified.check(self._clock())
        self._remembered.move_to_end(digest)
        return verified.claims

    async def _verify(self, credential: bytes, token: bytes) -> dict[str, Any]:
        # Taken before waiting: what was verified with old keys must not be remembered under new ones.
        remembered = self._remembered
        verified = await self._verifier.verify(token)
        verified.check(self._clock())
        remembered[_digest(credential)] = verified
        if len(remembered) > REMEMBERED:
            remembered.popitem(last=False)
        return verified.claims

    def _forget(self) -> None:
        self._remembered: OrderedDict[bytes, Verified] = OrderedDict()


def _digest(credential: bytes) -> bytes:
    return hashlib.sha256(credential).digest()


def _roles(keys: Keys) -> list[tuple[bytes, bytes]]:
    """Digest of each key that stands for a role, and that role's token."""
    anon, service = keys.anon_key.encode(), keys.service_role_key.encode()
    known = [(key.encode(), anon) for key in (*keys.publishable, keys.anon_key)]
    known += [(key.encode(), service) for key in (*keys.secret, keys.service_role_key)]
    return [(_digest(key), token) for key, token in known if key]


def _credentials(scope: Scope) -> tuple[bytes | None, bytes | None]:
    """The values of `Authorization` and `apikey`; each may be there once."""
    authorization = apikey = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            if authorization is not None:
                raise MalformedToken("More than one Authorization header was given")
            authorization = value
        elif name == b"apikey":
            if apikey is not None:
                raise MalformedToken("More than one apikey header was given")
            apikey = value
    return authorization, apikey


def _token(authorization: bytes) -> bytes:
    """What comes after `Bearer`, or the whole value when there is no scheme."""
    value = authorization.strip(b" ")
    scheme, _, rest = value.partition(b" ")
    if not rest:
        return value
    if scheme.lower() != b"bearer":
        raise MalformedToken
    return rest.lstrip(b" ")


def _take_from_query(query: bytes) -> tuple[list[bytes], bytes]:
    """The values of the parameter `jwt`, and the query without it."""
    parts = [(part.partition(b"="), part) for part in query.split(b"&")]
    taken = [unquote_to_bytes(pair[2]) for pair, _ in parts if pair[0] == b"jwt"]
    return taken, b"&".join(part for pair, part in parts if pair[0] != b"jwt")


def _offer(headers: list[tuple[bytes, bytes]], subprotocols: list[str]) -> list[tuple[bytes, bytes]]:
    """The headers of a WebSocket that offers these subprotocols and no others."""
    others = [(name, value) for name, value in headers if name != b"sec-websocket-protocol"]
    if subprotocols:
        others.append((b"sec-websocket-protocol", ", ".join(subprotocols).encode()))
    return others
