"""`FunctionClient`: an HTTP client whose server is one function in the test's own process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx2
import jwt
import msgspec

from runtime.errors import NotFound, UsageError
from runtime.project.environment import HANDED_ON
from runtime.project.keys import sign_role_key
from runtime.project.load import find_root, load
from runtime.project.settings import Options, Project
from runtime.testing.graph import FakeInferenceSession
from runtime.testing.house import House
from runtime.testing.session import FakeHost, FakeSession

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

_SECRET = "the-signing-secret-of-functions-under-test"
_TIMEOUT_S = 30.0
_CLOSED = "the function does not run: use the client in a `with` block"
_EXPIRES_AT = 4_102_444_800  # 2100-01-01
_NOT_FOR_TESTS = frozenset(HANDED_ON) | {"VERIFY_JWT"}


class _Addressed:
    """Paths begin at the function: `/` is its bare address."""

    function_url: str

    def address(self, path: str) -> str:
        if path.startswith(("http:", "https:")):
            return path
        rest = path.removeprefix("/")
        return self.function_url + ("" if not rest or rest[0] in "?#" else "/") + rest


class FunctionClient(_Addressed, httpx2.Client):
    """A client of one function, which runs from the `with` block's beginning to its end.

    It is an `httpx2.Client` (`get`, `post`, `stream` …) with WebSockets beside it. Paths begin
    at the function: `client.get("/7")` is `/functions/v1/NAME/7`, and an absolute URL stays
    what it is. The function sees what it sees of the server: environment, headers, claims.
    It boots as the block begins, its hooks run, and as the block ends it is drained; its module is
    there to be patched meanwhile. A client leaves no trace: modules, environment and files of the
    function go with it.

    What the function raises is answered as the server answers it, and its traceback is in `log`
    and under the logger `runtime.testing`, which pytest shows for a failed test. What it prints
    goes to the test's own output; the working directory and what `tempfile` uses stay the test's
    too. One function can be open in a process at a time.

    Args:
        function: its name, as in its URL.
        root: the project's folder. Default: the nearest one above the calling file, else above
            the working directory, that holds functions/ or supabase/.
        env: variables that win over those of the project.
        sessions: the models that `ai.Session` finds. A mapping: these and no others; a
            `FakeSession`: this one, whatever the name; None: models of the catalogue, folders,
            hub repositories and the value of `EMBEDDING_MODEL` give fake vectors, and any other
            name is a language model that fails until it is given replies. A graph of
            `ai.InferenceSession` is found by its path or its file's name, if the mapping has it;
            any other is the project's own.
        claims: of the token that is sent with every request; None: the anon key's.
        verify_jwt: False: as `functions serve --no-verify-jwt`.
        raise_errors: raise what the function raised, instead of its answer: at the request, for
            the rest (streams, WebSockets, `wait_until`) at the end of the block.

    Raises:
        NotFound: the project has no such function.
        UsageError: the project cannot be read.
        RuntimeError: another `FunctionClient` is open.
    """

    def __init__(
        self,
        function: str,
        *,
        root: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        sessions: Mapping[str, FakeSession | FakeInferenceSession] | FakeSession | None = None,
        claims: Mapping[str, Any] | None = None,
        verify_jwt: bool = True,
        raise_errors: bool = False,
    ) -> None:
        folder = os.path.abspath(root) if root is not None else _root(sys._getframe(1).f_globals)
        project = _project(folder, verify_jwt)
        if function not in project.functions:
            names = ", ".join(sorted(project.functions)) or "none"
            raise NotFound(f"There is no function {function!r} in {folder} (there are: {names})")
        self._models = FakeHost(sessions)
        self._house = House(project, project.functions[function], dict(env or {}), self._models)
        self._raises, self._raised = raise_errors, 0
        base = f"http://localhost:{project.settings.port}"
        self.function_url = f"{base}{project.settings.prefix}/{function}"
        super().__init__(
            headers={"authorization": f"Bearer {self.token(claims)}"},
            transport=_Transport(self._house),
            timeout=_TIMEOUT_S,
            trust_env=False,
        )

    # what it is asked about

    @property
    def log(self) -> str:
        """What the server's log would say: failures with their tracebacks, a line per request."""
        return "\n".join(self._house.log.lines)

    @property
    def sessions(self) -> Mapping[str, FakeSession]:
        """The fakes that the function has asked for by name, and those that were given so."""
        return self._models.sessions

    @property
    def module(self) -> ModuleType:
        """The function's own module, to look into or to patch while the `with` block lasts.

        Raises:
            RuntimeError: it did not boot.
        """
        self._house_running()
        module = sys.modules.get(self._house.module_name)
        if module is None:
            raise RuntimeError(f"{self._house.function.name} did not boot:\n{self.log}")
        return module

    @staticmethod
    def token(claims: Mapping[str, Any] | None = None) -> str:
        """A token that the function's server accepts, valid until 2100; None: the anon key."""
        if claims is None:
            return sign_role_key(_SECRET, "anon")
        return jwt.encode({"exp": _EXPIRES_AT, **claims}, _SECRET, "HS256")

    # what goes beyond an HTTP client

    def websocket(  # type: ignore[override]  # httpx2's own needs a package more
        self, path: str = "/", *, headers: Mapping[str, str] | None = None, subprotocols: Sequence[str] = ()
    ) -> AbstractContextManager[ClientConnection]:
        """Open a WebSocket, for the time of a `with` block: `send`, `recv`, iteration, `close_code`.

        It is the `websockets` package's own connection.

        Raises:
            websockets.exceptions.InvalidStatus: refused; its `response` says how.
        """
        self._house_running()
        return self._websocket(path, headers or {}, subprotocols)

    @contextmanager
    def _websocket(
        self, path: str, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> Iterator[ClientConnection]:
        from websockets.sync.client import unix_connect
        from websockets.typing import Subprotocol

        url = "ws" + self.address(path).removeprefix("http")
        sent = {"authorization": self.headers.get("authorization", "")} | dict(headers)
        with unix_connect(
            self._house.socket,
            url,
            additional_headers={name: value for name, value in sent.items() if value},
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            compression=None,
        ) as connection:
            yield connection

    def async_client(self) -> AsyncFunctionClient:
        """An `httpx2.AsyncClient` of the same function, while the `with` block of this one lasts."""
        self._house_running()
        return AsyncFunctionClient(self.function_url, self._house.socket, self.headers)

    def build_request(self, method: str, url: httpx2.URL | str, **options: Any) -> httpx2.Request:
        """As httpx2 has it, with a path that begins at the function."""
        return super().build_request(method, self.address(str(url)), **options)

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """As httpx2 has it; with `raise_errors`, what the function raised is raised here."""
        response = super().send(request, **options)
        if self._raises:
            self._raise(response)
        return response

    def _raise(self, response: httpx2.Response) -> None:
        request_id = response.headers.get("sb-request-id")
        for index, (raised_in, error) in enumerate(self._house.errors):
            if index >= self._raised and raised_in == request_id:
                self._raised = len(self._house.errors)
                response.close()
                raise error

    def __enter__(self) -> Self:
        self._house.start()
        try:
            if self._raises:
                self._raise_rest()  # it did not boot
            return super().__enter__()
        except BaseException:
            self._house.stop()
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            super().__exit__(exc_type, exc_value, traceback)
        finally:
            self._house.stop()
        if self._raises and exc_value is None:
            self._raise_rest()

    def _raise_rest(self) -> None:
        for _, error in self._house.errors[self._raised :]:
            raise error

    def _house_running(self) -> None:
        if not self._house.running:
            raise RuntimeError(_CLOSED)


class AsyncFunctionClient(_Addressed, httpx2.AsyncClient):
    """What `FunctionClient.async_client` gives."""

    def __init__(self, url: str, socket: str, headers: httpx2.Headers) -> None:
        self.function_url = url
        transport = httpx2.AsyncHTTPTransport(uds=socket, verify=False, trust_env=False)
        super().__init__(headers=headers, transport=transport, timeout=_TIMEOUT_S, trust_env=False)

    def build_request(self, method: str, url: httpx2.URL | str, **options: Any) -> httpx2.Request:
        """As httpx2 has it, with a path that begins at the function."""
        return super().build_request(method, self.address(str(url)), **options)


class _Transport(httpx2.BaseTransport):
    """Speaks HTTP to the house, over a socket in its temporary folder."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._http: httpx2.HTTPTransport | None = None

    def __enter__(self) -> Self:
        self._http = httpx2.HTTPTransport(uds=self._house.socket, verify=False, trust_env=False)
        return self

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._http is None:
            raise RuntimeError(_CLOSED)
        return self._http.handle_request(request)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None


def _root(caller: Mapping[str, Any]) -> str:
    file = caller.get("__file__")
    if isinstance(file, str):
        try:
            return find_root(os.path.dirname(os.path.abspath(file)))
        except UsageError:
            pass
    return find_root(os.getcwd())


def _project(root: str, verify_jwt: bool) -> Project:
    # What configures a real server is not for tests, unless a test hands it over with `env`.
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SUPABASE_") and name not in _NOT_FOR_TESTS
    }
    options = Options(root=root, verify_jwt=None if verify_jwt else False)
    project = load(options, environ | {"JWT_SECRET": _SECRET})
    local = msgspec.structs.replace(project.settings, host="127.0.0.1")
    return msgspec.structs.replace(project, settings=local)
