"""The request that `functions invoke` sends, from what was typed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from runtime.errors import UsageError


class Call(NamedTuple):
    """One HTTP request."""

    method: str
    url: str
    query: tuple[tuple[str, str], ...]
    headers: list[tuple[str, str]]
    body: bytes | None


def build(
    base: str, name: str, method: str | None, data: str | None, query: Sequence[str], headers: Sequence[str]
) -> Call:
    """A request for the function `name` below the URL `base`; POST when there is a body.

    Raises:
        UsageError: a part of it makes no sense.
    """
    if urlsplit(base).scheme not in ("http", "https"):
        raise UsageError("no http:// or https:// URL", where="--url", remedy=f"is it http://{base} ?")
    body = None if data is None else read_body(data)
    fields = [pair(text, ":", "--header") for text in headers]
    if body is not None and not any(field.lower() == "content-type" for field, _ in fields):
        fields.append(("content-type", content_type(body)))
    return Call(
        method=(method or ("GET" if body is None else "POST")).upper(),
        url=f"{base.rstrip('/')}/{name.lstrip('/')}",
        query=tuple(pair(text, "=", "--query") for text in query),
        headers=fields,
        body=body,
    )


def pair(text: str, separator: str, flag: str) -> tuple[str, str]:
    """`name=value` or `name: value`, cut in two."""
    name, found, value = text.partition(separator)
    if not found or not name.strip():
        raise UsageError(f"{text!r} has no name and value", where=flag, remedy=f"write name{separator}value")
    return (name.strip(), value.strip()) if separator == ":" else (name, value)


def read_body(data: str) -> bytes:
    """The bytes that `--data` means: `-` is standard input, `@path` a file, the rest itself."""
    if data == "-":
        return sys.stdin.buffer.read()
    if data.startswith("@"):
        try:
            return Path(data[1:]).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read it: {error.strerror}", where=data[1:]) from error
    return data.encode()


def content_type(body: bytes) -> str:
    """JSON when it is JSON, else plain text, else just bytes."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    try:
        json.loads(text)
    except ValueError:
        return "text/plain; charset=utf-8"
    return "application/json"
