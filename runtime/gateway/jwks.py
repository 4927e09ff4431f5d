"""Public keys of whoever issues the tokens: a JSON Web Key Set (RFC 7517), given or fetched."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from jwt import PyJWK, PyJWTError

from runtime.errors import BadAsymmetricToken, KeysError

REFRESH_S = 30.0
TIMEOUT_S = 5.0
MAX_BYTES = 1024 * 1024
MAX_KEYS = 100
MIN_RSA_BITS = 2048  # RFC 7518, section 3.3

_ALGORITHMS = {"RSA": "RS256", "EC P-256": "ES256", "OKP Ed25519": "EdDSA"}
_PUBLIC_MEMBERS = ("kty", "crv", "x", "y", "n", "e", "kid")

_log = logging.getLogger(__name__)


class JwksSource:
    """Finds the key that a token names.

    The set behind `url` is fetched when a token names an unknown key, at most every
    `REFRESH_S` seconds and once at a time. While the issuer is down or sends nonsense,
    the last good set stays.

    Args:
        url: where the set is published; None: nowhere.
        static: a set that is known already; it is asked first.
        fetch: downloads the document; tests bring their own.
        clock: seconds, monotonic.

    Attributes:
        on_change: called when the set was fetched anew.

    Raises:
        KeysError: `static` is no key set.
    """

    def __init__(
        self,
        url: str | None,
        static: dict[str, Any] | None,
        fetch: Callable[[str], Awaitable[bytes]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url, self._fetch, self._clock = url, fetch or download, clock
        self._static = _given(static) if static is not None else []
        self._fetched: list[PyJWK] = []
        self._not_before = -math.inf
        self._flight: asyncio.Task[None] | None = None
        self.on_change: Callable[[], None] = lambda: None

    async def key(self, kid: str | None) -> PyJWK:
        """The key of this id; without an id, the only key there is.

        Raises:
            BadAsymmetricToken: no such key, or the set cannot be had.
        """
        found = self._find(kid)
        if found is None:
            await self.refresh()
            found = self._find(kid)
        if found is None:
            raise BadAsymmetricToken
        return found

    async def refresh(self) -> None:
        """Fetch the set, unless that was tried in the last `REFRESH_S` seconds. Never raises."""
        if self._flight is None:
            if self.url is None or self._clock() < self._not_before:
                return
            self._not_before = self._clock() + REFRESH_S
            self._flight = asyncio.create_task(self._load(self.url))
        # One caller's leaving must not cancel what the others wait for.
        await asyncio.shield(self._flight)

    def _find(self, kid: str | None) -> PyJWK | None:
        for keys in (self._static, self._fetched):
            named = keys if kid is None else [key for key in keys if key.key_id == kid]
            if len(named) == 1 or (named and kid is not None):
                return named[0]
        return None

    async def _load(self, url: str) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                document = await self._fetch(url)
            if len(document) > MAX_BYTES:
                raise ValueError(f"it is larger than {MAX_BYTES} bytes")
            self._fetched = parse(msgspec.json.decode(document))
            self.on_change()
        except Exception as error:
            reason = str(error) or type(error).__name__
            kept = len(self._fetched)
            _log.warning("The key set at %s could not be read (%s); %d known keys stay", url, reason, kept)
        finally:
            self._flight = None


def _given(document: dict[str, Any]) -> list[PyJWK]:
    try:
        return parse(document)
    except ValueError as error:
        remedy = 'give it as {"keys": [...]}, with public keys'
        raise KeysError(
            f"The key set cannot be used: {error}", where="SUPABASE_JWKS", remedy=remedy
        ) from None


def parse(document: object) -> list[PyJWK]:
    """The keys of a set that can verify tokens here; the others are skipped.

    Raises:
        ValueError: this is no key set.
    """
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise ValueError("it has no list of keys")
    return [key for jwk in keys[:MAX_KEYS] if (key := _usable(jwk)) is not None]


def _usable(jwk: object) -> PyJWK | None:
    """A key bound to the one algorithm that its type has here; never a symmetric one."""
    if not isinstance(jwk, dict):
        return None
    kind = "RSA" if jwk.get("kty") == "RSA" else f"{jwk.get('kty')} {jwk.get('crv')}"
    algorithm = _ALGORITHMS.get(kind)
    if algorithm is None or (jwk.get("alg") or algorithm) != algorithm or not _may_verify(jwk):
        return None
    try:
        key = PyJWK.from_dict({name: jwk[name] for name in _PUBLIC_MEMBERS if name in jwk}, algorithm)
    except PyJWTError:
        return None
    return None if algorithm == "RS256" and key.key.key_size < MIN_RSA_BITS else key


def _may_verify(jwk: dict[str, Any]) -> bool:
    operations = jwk.get("key_ops")
    return jwk.get("use") in (None, "sig") and (not isinstance(operations, list) or "verify" in operations)


async def download(url: str) -> bytes:
    """Fetch a document of at most `MAX_BYTES`."""
    # Importing the client and reading the certificates takes long enough to hold up requests.
    client = await asyncio.to_thread(_client)
    async with client, client.stream("GET", url, headers={"accept": "application/json"}) as response:
        if response.status_code != 200:
            raise ValueError(f"it was answered with status {response.status_code}")
        document = bytearray()
        async for piece in response.aiter_bytes():
            document += piece
            if len(document) > MAX_BYTES:
                raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    return bytes(document)


def _client() -> Any:
    import httpx2

    return httpx2.AsyncClient(timeout=TIMEOUT_S)
