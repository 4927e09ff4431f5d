"""`functions invoke`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, BinaryIO, Literal

import click

from runtime.cli import output
from runtime.cli.root import open_project, root_option
from runtime.errors import UsageError

if TYPE_CHECKING:
    import httpx2

    from runtime.cli.request import Call
    from runtime.project.settings import Keys, Settings

Role = Literal["anon", "service_role", "none"]

ANSWERED_WITH_ERROR = 1
_CONNECT_S = 5.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


@click.command("invoke")
@click.argument("name")
@click.option("-d", "--data", metavar="TEXT|@FILE|-", help="Body: this text, a file's, or standard input's.")
@click.option("-X", "--method", metavar="METHOD", help="Default: POST with --data, else GET.")
@click.option("-q", "--query", metavar="NAME=VALUE", multiple=True, help="Query parameter; may be repeated.")
@click.option("-H", "--header", metavar="NAME:VALUE", multiple=True, help="Header; may be repeated.")
@click.option(
    "--role",
    type=click.Choice(["anon", "service_role", "none"]),
    default="anon",
    show_default=True,
    help="Whose key goes along.",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), metavar="N", help="The server's port. Default: the project's."
)
@click.option("--url", metavar="URL", help="Where the functions are, instead of this machine.")
@root_option
def command(
    name: str,
    data: str | None,
    method: str | None,
    query: tuple[str, ...],
    header: tuple[str, ...],
    role: Role,
    port: int | None,
    url: str | None,
    root: str | None,
) -> int:
    """Call the function NAME and print its answer as it arrives.

    A server must be running (`functions serve`). A status other than 2xx goes to stderr with
    its body, and the exit code is 1.

    \b
    Examples:
      functions invoke hello -d '{"name":"Functions"}'
      functions invoke embed -q "input=Luke, I am your father"
      functions invoke tasks/7 -X DELETE --role service_role
    """
    from runtime.cli.request import build

    project = open_project(root)
    base = url or base_url(project.settings, port)
    call = build(base, name, method, data, query, header)
    call.headers.extend(credentials(project.keys, role, call))
    return send(call, proxied=url is not None)


def base_url(settings: Settings, port: int | None) -> str:
    """Where the functions of this project are on this machine."""
    return f"{server_url(settings, port)}{settings.prefix}"


def server_url(settings: Settings, port: int | None) -> str:
    """Where a server of this project answers on this machine."""
    host = _ANY_ADDRESS.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port or settings.port}"


def credentials(keys: Keys, role: Role, call: Call) -> list[tuple[str, str]]:
    """The header that carries the role's key; none where one was typed.

    Raises:
        UsageError: there is no key for the role.
    """
    if role == "none" or any(name.lower() == "authorization" for name, _ in call.headers):
        return []
    key = keys.anon_key if role == "anon" else keys.service_role_key
    if not key:
        raise UsageError(f"this project has no key for {role}", where="--role", remedy="give one with -H")
    return [("authorization", f"Bearer {key}")]


def send(call: Call, *, proxied: bool) -> int:
    """Send it and print what comes back; returns the exit code.

    Raises:
        UsageError: nobody answers there.
    """
    import httpx2

    timeout = httpx2.Timeout(None, connect=_CONNECT_S)
    try:
        with (
            httpx2.Client(timeout=timeout, trust_env=proxied) as client,
            client.stream(
                call.method, call.url, params=call.query or None, headers=call.headers, content=call.body
            ) as response,
        ):
            return show(response)
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise UsageError(
            "no server answers here", where=call.url, remedy="start one with `functions serve`"
        ) from error
    except httpx2.InvalidURL as error:
        raise UsageError(f"no URL: {error}", where=call.url) from error
    except httpx2.TransportError as error:
        output.error(f"{call.url}: the answer broke off ({error})")
        return ANSWERED_WITH_ERROR


def show(response: httpx2.Response) -> int:
    """Copy a response to the terminal, piece by piece."""
    if response.is_success:
        copy(response, sys.stdout.buffer, sys.stdout.isatty())
        return 0
    output.error(f"{response.status_code} {response.reason_phrase}".rstrip())
    copy(response, sys.stderr.buffer, sys.stderr.isatty())
    return ANSWERED_WITH_ERROR


def copy(response: httpx2.Response, target: BinaryIO, terminal: bool) -> None:
    """The body as it arrives; a terminal gets a line end after the last piece."""
    last = b"\n"
    for piece in response.iter_bytes():
        target.write(piece)
        target.flush()
        last = piece or last
    if terminal and not last.endswith(b"\n"):
        target.write(b"\n")
        target.flush()
