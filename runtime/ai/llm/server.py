"""Where an LLM server is and how to speak to it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from runtime.ai.llm import headers as extra
from runtime.errors import HostNotConfigured, InvalidMode

MODES = ("ollama", "openaicompatible")
_HOST, _KEY, _MODE = "AI_INFERENCE_API_HOST", "AI_INFERENCE_API_KEY", "AI_INFERENCE_API_MODE"
_BODY = 2048
_PART = 4  # characters of a secret's beginning that a text may not end with


class Server(msgspec.Struct, frozen=True):
    """An LLM server. `repr` shows no secret.

    Attributes:
        url: scheme, address and base path; no credentials, no slash at the end.
        mode: one of `MODES`.
        source: the variable or argument that named it.
        authorization: the header to send; empty: none.
        secrets: what no message may show.
        headers: more of them, sent with every request.
        transport: an `httpx2.AsyncBaseTransport` that answers in the server's place; None: the network.
    """

    url: str
    mode: str
    source: str
    authorization: str = ""
    secrets: tuple[str, ...] = ()
    transport: Any = None
    headers: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Server({self.url!r}, {self.mode!r})"

    @classmethod
    def find(
        cls, environ: Mapping[str, str], host: str | None, key: str | None, mode: str | None
    ) -> Server | None:
        """The server at `host`, else the one that the environment names; None: there is none.

        The environment's key and mode belong to the environment's host.

        Raises:
            HostNotConfigured: the URL or the key cannot be used.
            InvalidMode: unknown mode.
        """
        if host:
            return cls.at(host, key, checked_mode(mode or "ollama"), "host", "api_key")
        checked = checked_mode(mode or environ.get(_MODE) or "ollama", "" if mode else _MODE)
        if environ.get(_HOST):
            return cls.at(
                environ[_HOST], key or environ.get(_KEY), checked, _HOST, "api_key" if key else _KEY
            )
        return None

    @classmethod
    def at(cls, host: str, key: str | None, mode: str, source: str, key_source: str) -> Server:
        """The server at this URL; credentials in it are sent as Basic authorization unless there is a key."""
        parts, port = _checked_url(host.strip(), source)
        address = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        url = f"{parts.scheme}://{address}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"
        authorization, secrets = _authorization((key or "").strip(), parts, key_source)
        return cls(url, mode, source, authorization, secrets)

    def sending(self, headers: Mapping[str, str]) -> Server:
        """This server, sent these headers too; an `authorization` among them wins over the key.

        Raises:
            HostNotConfigured: they are none.
        """
        more = extra.checked(headers)
        hidden = (*self.secrets, *extra.secrets(more))
        authorization = more.pop("authorization", self.authorization)
        return msgspec.structs.replace(
            self, authorization=authorization, headers=tuple(more.items()), secrets=hidden
        )

    def clean(self, text: str) -> str:
        """A text of the server's as a message may show it: without secrets, and not long."""
        longest_first = sorted(self.secrets, key=len, reverse=True)  # one may be a part of another
        for secret in longest_first:
            text = text.replace(secret, "***")
        for secret in longest_first:
            text = _without_part(text, secret)
        return text if len(text) <= _BODY else f"{text[:_BODY]}…"


def _without_part(text: str, secret: str) -> str:
    """The text, which may have been cut amid this secret."""
    for length in range(min(len(secret), len(text)), _PART - 1, -1):
        if text.endswith(secret[:length]):
            return f"{text[:-length]}***"
    return text


def checked_mode(mode: str, source: str = "") -> str:
    """
    Raises:
        InvalidMode: not one of `MODES`.
    """
    if mode not in MODES:
        where = f"{source}: " if source else ""
        raise InvalidMode(f'{where}invalid mode {mode!r}: use "ollama" or "openaicompatible"')
    return mode


def _checked_url(host: str, source: str) -> tuple[SplitResult, int | None]:
    def refuse(why: str) -> NoReturn:
        _, at, rest = host.rpartition("@")
        raise HostNotConfigured(
            f"{source} is {f'…@{rest}' if at else host!r}, which {why}: "
            "give the server's base URL, as in http://localhost:11434"
        )

    if not host.isascii() or any(character <= " " for character in host):
        refuse("has characters that no URL has")
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError as error:
        refuse(f"is no URL ({error})")
    if parts.scheme not in ("http", "https"):
        refuse("does not start with http:// or https://")
    if not parts.hostname:
        refuse("names no host")
    if parts.query or parts.fragment:
        refuse("has a query or a fragment")
    return parts, port


def _authorization(key: str, parts: SplitResult, source: str) -> tuple[str, tuple[str, ...]]:
    password = unquote(parts.password or "")
    basic = ""
    if parts.username is not None:
        basic = base64.b64encode(f"{unquote(parts.username)}:{password}".encode()).decode()
    if key and not (key.isascii() and key.isprintable()):
        raise HostNotConfigured(
            f"{source} has characters that no HTTP header can carry: check for line breaks"
        )
    secrets = tuple(secret for secret in (key, basic, password) if secret)
    if key:
        return f"Bearer {key}", secrets
    return f"Basic {basic}" if basic else "", secrets
