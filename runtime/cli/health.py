"""`functions health`, for the health checks of containers and service managers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from runtime.cli.root import root_option, root_or_here, server_options
from runtime.errors import UsageError

if TYPE_CHECKING:
    from http.client import HTTPConnection

UNHEALTHY = 1
_TIMEOUT_S = 3.0
_READ_BYTES = 4096


@click.command("health")
@server_options
@root_option
def command(port: int | None, url: str | None, root: str | None) -> int:
    """Ask a running server whether it is ready: exit code 0 if it is, 1 if not, and one line.

    Ready means that every function has started or failed, and that the models are loaded.

    \b
    Examples:
      functions health
      functions health --port 9000
    """
    check(url)
    ready, line = ask(url or f"http://127.0.0.1:{port or _port_of(root)}")
    click.echo(line, err=not ready)
    return 0 if ready else UNHEALTHY


def check(url: str | None) -> None:
    """Raises UsageError for a URL of another protocol."""
    scheme, found, rest = (url or "").partition("://")
    if found and scheme.lower() not in ("http", "https"):
        raise UsageError(
            f"{url} is no http:// or https:// URL", where="--url", remedy=f"is it http://{rest} ?"
        )


def ask(url: str) -> tuple[bool, str]:
    """Whether the server at `url` (its scheme, host and port) is ready, and a line about it."""
    from http.client import HTTPException

    try:
        status, body = _get(url)
    except (OSError, ValueError, HTTPException) as error:
        return False, f"no server answers at {url}: {error}"
    return status == 200, f"{status} {_message(body)}"


def _get(url: str) -> tuple[int, bytes]:
    """Status and body of the page that tells."""
    connection, path = connect(url, _TIMEOUT_S)
    connection.request("GET", f"{path}/_internal/ready")
    response = connection.getresponse()
    return response.status, response.read(_READ_BYTES)


def connect(url: str, timeout_s: float) -> tuple[HTTPConnection, str]:
    """A connection to the server at `url`, and the path below which its pages are.

    Raises:
        ValueError, HTTPException: it is no URL.
    """
    from http.client import HTTPConnection, HTTPSConnection
    from urllib.parse import urlsplit

    parts = urlsplit(url if "://" in url else f"http://{url}")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=timeout_s), parts.path.rstrip("/")


def _message(body: bytes) -> str:
    """What the page says: one line, whoever wrote it."""
    import json

    try:
        message = str(json.loads(body)["message"])
    except (ValueError, LookupError, TypeError):
        message = "the answer is not a server's of this kind"
    return " ".join(message.split())


def _port_of(root: str | None) -> int:
    """The project's port; nothing else of the project has to be in order for this."""
    from runtime.project.config import read_config
    from runtime.project.settings import Settings

    folder = root_or_here(root)
    port: int = read_config(folder, os.environ).settings.get("port", Settings(root=folder).port)
    return port
