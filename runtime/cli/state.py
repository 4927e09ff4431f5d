"""What the project's running server says of its functions, for `functions list`."""

from __future__ import annotations

import time
from contextlib import closing
from http.client import HTTPException
from threading import Thread
from typing import TYPE_CHECKING

import msgspec

from runtime.cli.health import connect
from runtime.cli.invoke import server_url
from runtime.errors import UsageError

if TYPE_CHECKING:
    from runtime.project.settings import Project

HEADER = ("STATE", "GENERATION", "WORKERS", "IN FLIGHT", "QUEUED", "RESTARTS", "LAST ERROR")

_PATIENCE_S = 0.3
_NAMED_PATIENCE_S = 3.0
_TOKEN_S = 10
_MOST_BYTES = 16 * 1024 * 1024
_WIDTH = 60
_DIGITS = 8


class State(msgspec.Struct, frozen=True):
    """One function, as `/_internal/metric` has it."""

    state: str
    generation: str = ""
    workers: int = 0
    in_flight: int = 0
    queued: int = 0
    restarts: int = 0
    last_error: str = ""


class _Metric(msgspec.Struct):
    functions: dict[str, State]


class Live:
    """The functions' states by name; None: no server of this project answers."""

    def __init__(self, states: dict[str, State] | None) -> None:
        self.states = states

    def header(self, header: tuple[str, ...]) -> tuple[str, ...]:
        """A table's header with our columns behind the first, if there is a server."""
        return header if self.states is None else (header[0], *HEADER, *header[1:])

    def row(self, row: tuple[str, ...]) -> tuple[str, ...]:
        """A function's line, whose first cell is its name, in the same way."""
        return row if self.states is None else (row[0], *_cells(self.states.get(row[0])), *row[1:])

    def described(self, name: str) -> dict[str, object]:
        """What `--json` says besides: `live`, if there is a server; null where it has no such function."""
        if self.states is None:
            return {}
        state = self.states.get(name)
        return {"live": None if state is None else msgspec.structs.asdict(state)}


def ask(project: Project, port: int | None = None, url: str | None = None) -> Live:
    """Ask the project's server.

    Another program may have that port, so what it is shown is no key, but a token that the
    project's secret signs for ten seconds.

    Args:
        port: another than the project's.
        url: where it is, instead of this machine.

    Raises:
        UsageError: the server that was named does not answer within 3 s. (One that was not
            may take 0.3 s, and need not be there.)
    """
    named = bool(port or url)
    base = url or server_url(project.settings, port)
    found: list[dict[str, State]] = []
    patience = _NAMED_PATIENCE_S if named else _PATIENCE_S

    def get() -> None:
        answer = _metric(base, _token(project.keys.jwt_secret), patience)
        if answer is not None:
            found.append(answer)

    if project.keys.jwt_secret:
        asking = Thread(target=get, daemon=True)
        asking.start()
        asking.join(patience)
    if named and not found:
        raise UsageError(
            "no server of this project answers here", where=base, remedy="start one with `functions serve`"
        )
    return Live(found[0] if found else None)


def _metric(url: str, token: str, timeout_s: float) -> dict[str, State] | None:
    """What a server tells; None: there is none, or it is no server of this project."""
    try:
        connection, path = connect(url, timeout_s)
        with closing(connection):
            headers = {"authorization": f"Bearer {token}"}
            connection.request("GET", f"{path}/_internal/metric", headers=headers)
            response = connection.getresponse()
            body = response.read(_MOST_BYTES) if response.status == 200 else b""
        return msgspec.json.decode(body, type=_Metric).functions
    except (OSError, HTTPException, ValueError):
        return None


def _token(secret: str) -> str:
    import warnings

    import jwt

    claims = {"iss": "functions", "role": "service_role", "exp": int(time.time()) + _TOKEN_S}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a short secret, which is the server's to refuse
        return jwt.encode(claims, secret, algorithm="HS256")


def _cells(state: State | None) -> tuple[str, ...]:
    if state is None:
        return ("-",) * len(HEADER)
    numbers = map(str, (state.workers, state.in_flight, state.queued, state.restarts))
    return _line(state.state), _short(state.generation) or "-", *numbers, _line(state.last_error) or "-"


def _short(generation: str) -> str:
    """As much of the digest as tells one version from another, with its count."""
    digest, plus, count = _line(generation).partition("+")
    return f"{digest[:_DIGITS]}{plus}{count}"


def _line(text: str) -> str:
    """A function's words on one short line, with nothing that steers a terminal."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
