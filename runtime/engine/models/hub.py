"""A model hub that speaks the Hugging Face API: what a repository holds, and its files.

huggingface_hub finds the token and the limits of time. What the hub answers is read here: the
library reads answers of any length, starts a download again from nothing after a kill, and
trusts the length of a file instead of its digest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from runtime.engine.models.listing import Listing, RemoteFile, read_listing
from runtime.engine.models.patience import Attempts, Passing, Patience, Say, wait_of
from runtime.errors import HubError, HubRefused, UsageError
from runtime.version import __version__

if TYPE_CHECKING:
    from types import ModuleType

    import httpx2

DEFAULT_ENDPOINT = "https://huggingface.co"

_YES = {"1", "ON", "YES", "TRUE"}
_TRY_AGAIN = {408, 429, 500, 502, 503, 504}

_LONGEST_DESCRIPTION = 32 * 1024 * 1024  # bytes; a repository of 100 000 files has one


def offline() -> bool:
    """`HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`) forbids the network."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in _YES


def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT`, or huggingface.co.

    Raises:
        UsageError: the variable holds no address.
    """
    import httpx2

    url = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    with suppress(httpx2.InvalidURL):
        parts = httpx2.URL(url)
        is_host = parts.host and "%" not in parts.host and (parts.port or 0) < 1 << 16
        if parts.scheme in {"http", "https"} and is_host:
            return url
    raise UsageError(
        "is no address of a hub", where="HF_ENDPOINT", remedy=f"write it like {DEFAULT_ENDPOINT}"
    )


def address_of(url: str) -> str:
    """Host and port of an address, for people: without the password that may stand before them."""
    return urlsplit(url).netloc.rpartition("@")[2]


def answers(url: str, seconds: float) -> bool:
    """Whether anything answers at this address within so many seconds.

    Raises:
        UsageError: the settings of proxies or TLS make no sense.
    """
    from threading import Thread

    import httpx2

    client, heard = _client(), list[int]()

    def ask() -> None:
        with suppress(httpx2.HTTPError, httpx2.InvalidURL, OSError), client:
            heard.append(client.head(url, timeout=seconds, follow_redirects=False).status_code)

    # A name server that does not answer, and a host of many addresses, take longer than any
    # timeout says: hence a thread that nobody waits for.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(heard)


def _client() -> httpx2.Client:
    import httpx2

    try:
        return httpx2.Client(follow_redirects=True)
    except (httpx2.InvalidURL, ValueError, ImportError, OSError) as error:
        raise UsageError(
            f"The settings of proxies or TLS cannot be used: {error}",
            remedy="check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR",
        ) from error


class Hub:
    """The hub that the environment names. Making it imports huggingface_hub and asks for nothing.

    Args:
        say: told of every wait.

    Attributes:
        address: host and port, for people.

    Raises:
        UsageError: the environment's settings make no sense.
    """

    def __init__(self, patience: Patience, say: Say) -> None:
        self._url = endpoint()
        self.address = address_of(self._url)
        self._patience, self._say = patience, say
        library = _library()
        self._headers = _headers(library)
        self._silence = patience.silence or float(library.constants.HF_HUB_DOWNLOAD_TIMEOUT)
        self._client = _client()

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def list(self, repository: str, revision: str) -> Listing:
        """What the repository holds.

        Args:
            revision: a branch, a tag or a commit; empty: the newest of the main branch.

        Raises:
            HubError: it cannot be had.
        """
        place = f"/revision/{quote(revision, safe='')}" if revision else ""
        url = f"{self._url}/api/models/{repository}{place}?blobs=true"
        attempts = Attempts(self._patience, self.address, self._say)
        while True:
            try:
                with self._answer(url, repository, revision) as response:
                    return self._listing(response)
            except Passing as trouble:
                attempts.failed(trouble)

    def fetch(
        self, repository: str, revision: str, file: RemoteFile, target: Path, done: Callable[[int], None]
    ) -> None:
        """Append to `target` what it lacks of a file; what it holds is taken for the beginning.

        Args:
            done: called with the bytes that `target` has.

        Raises:
            HubError: it cannot be had. What came so far stays.
            OSError: the disk refuses.
        """
        url = f"{self._url}/{repository}/resolve/{quote(revision, safe='')}/{quote(file.path)}"
        attempts = Attempts(self._patience, self.address, self._say)
        target.touch()
        while (had := target.stat().st_size) < file.size:
            try:
                with self._answer(url, repository, revision, start=had) as response:
                    self._append(response, file, target, had, done)
            except Passing as trouble:
                attempts.failed(trouble, progress=target.stat().st_size > had)

    @contextmanager
    def _answer(self, url: str, repository: str, revision: str, start: int = 0) -> Iterator[httpx2.Response]:
        """What the hub says to a request; failures, on the way too, as `Passing` or `HubError`."""
        import httpx2

        part = {"range": f"bytes={start}-"} if start else {}
        try:
            with self._client.stream(
                "GET", url, headers=self._headers | part, timeout=self._silence
            ) as response:
                self._check(response, repository, revision)
                yield response
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Passing(f"cannot be reached: {str(error) or 'no answer'}") from error
        except httpx2.TimeoutException as error:
            raise Passing(f"sent no byte for {self._silence:.3g} s") from error
        except (httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
            raise Passing("broke the connection") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise HubError(
                f"The model hub cannot be used: {error}",
                where=self.address,
                remedy="check HF_ENDPOINT and proxies",
            ) from error

    def _check(self, response: httpx2.Response, repository: str, revision: str) -> None:
        # The body of a refusal says nothing that its head does not: it stays unread.
        status, headers = response.status_code, response.headers
        if status in _TRY_AGAIN:
            raise Passing(f"answers with status {status}", wait_of(headers.get("retry-after")))
        if status not in {200, 206}:
            raise self._refusal(status, headers, repository, revision)
        if "text/html" in headers.get("content-type", ""):
            raise self._nonsense("a web page")
        if headers.get("content-encoding", "identity") != "identity":
            raise self._nonsense("something compressed, which nobody asked for")

    def _refusal(self, status: int, headers: httpx2.Headers, repository: str, revision: str) -> HubError:
        code, said = headers.get("x-error-code", ""), headers.get("x-error-message", "")
        parts = urlsplit(self._url)
        token = "set HF_TOKEN to an access token of somebody who may read it"
        kind = HubRefused if 400 <= status < 500 else HubError
        if code == "GatedRepo":
            what = f"{repository} is given only to those who accept its licence"
            remedy = f"accept it at {parts.scheme}://{self.address}/{repository}, and {token}"
        elif code == "RevisionNotFound":
            what = f"{repository} has no revision {revision!r}"
            remedy = "name a branch, a tag or a commit of it"
        elif code == "EntryNotFound":
            kind, what, remedy = HubError, f"{repository} lost a file while it was read", "pull it again"
        elif said.startswith("Invalid credentials"):
            kind, what = HubError, "The model hub does not know the access token"
            remedy = "make a new one, and set HF_TOKEN to it"
        elif status in {401, 404}:
            what = f"There is no repository {repository}, or it is private"
            remedy = f"check the name; if it is private, {token}"
        elif status == 403:
            what, remedy = f"The model hub forbids reading {repository}", f"check proxies, or {token}"
        else:
            what, remedy = f"The model hub answers with status {status}", "check HF_ENDPOINT and the name"
        return kind(what, where=self.address, remedy=remedy)

    def _listing(self, response: httpx2.Response) -> Listing:
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            if len(body) > _LONGEST_DESCRIPTION:
                raise self._nonsense(f"a description of more than {_LONGEST_DESCRIPTION} bytes")
        try:
            return read_listing(body)
        except ValueError as error:
            raise self._nonsense("something else than a description of the repository") from error

    def _append(
        self,
        response: httpx2.Response,
        file: RemoteFile,
        target: Path,
        had: int,
        done: Callable[[int], None],
    ) -> None:
        start = self._start_of(response, file, had)
        with open(target, "r+b") as out:
            out.truncate(start)
            out.seek(start)
            self._copy(response, file, out, done)
        if target.stat().st_size < file.size:
            raise Passing(f"ended {file.path} early")

    def _start_of(self, response: httpx2.Response, file: RemoteFile, asked: int) -> int:
        """The place of the first byte of the body."""
        start, whole = _place(response)
        if start not in {0, asked}:
            raise self._nonsense(f"another part of {file.path} than was asked for")
        if whole not in {None, file.size}:
            raise self._nonsense(f"{whole} bytes of {file.path} instead of {file.size}")
        return start

    def _copy(
        self, response: httpx2.Response, file: RemoteFile, out: Any, done: Callable[[int], None]
    ) -> None:
        for piece in response.iter_raw():
            if out.tell() + len(piece) > file.size:
                raise self._nonsense(f"more than the {file.size} bytes of {file.path}")
            out.write(piece)
            out.flush()  # what came is there for the next attempt, whatever ends this one
            done(out.tell())

    def _nonsense(self, what: str) -> HubError:
        return HubError(
            f"The model hub answered with {what}",
            where=self.address,
            remedy="see whether a proxy or a login page stands between, and whether HF_ENDPOINT is right",
        )


def no_network(name: str) -> HubError:
    """The error for a model that only the network has, where `offline()`."""
    return HubError(
        f"The model {name} is not here, and HF_HUB_OFFLINE forbids fetching it",
        remedy="unset HF_HUB_OFFLINE, or copy the model's folder here: functions models pull ./FOLDER",
    )


def _library() -> ModuleType:
    # It asks the hub for a list of its own at the first request, unless told not to.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.utils
    except ImportError as error:
        raise HubError(
            "huggingface_hub is not installed", remedy="pip install 'functions-runtime[engine]'"
        ) from error
    except ValueError as error:
        raise UsageError(f"{error}", where="HF_HUB_DOWNLOAD_TIMEOUT", remedy="write whole seconds") from error
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return huggingface_hub


def _headers(library: ModuleType) -> dict[str, str]:
    """The headers of every request: who asks, with the token if there is one."""
    headers: dict[str, str]
    try:
        headers = library.utils.build_hf_headers(
            library_name="functions-runtime", library_version=__version__
        )
    except OSError as error:
        raise UsageError(
            f"The access token cannot be read: {error.strerror}",
            where=str(error.filename),
            remedy="allow reading it, or set HF_TOKEN or HF_TOKEN_PATH",
        ) from error
    said = headers.get("authorization", "")
    if not (said.isascii() and said.isprintable()):
        raise UsageError(
            "The access token has characters that no token has", where="HF_TOKEN", remedy="copy it again"
        )
    # Compressed bytes could neither be counted nor continued.
    return headers | {"accept-encoding": "identity"}


def _place(response: httpx2.Response) -> tuple[int, int | None]:
    """Where the body begins in the file, and how long the file is if the answer says so."""
    headers = response.headers
    if response.status_code == 206:
        # "bytes 100-199/200" (RFC 9110, 14.4)
        span, _, whole = headers.get("content-range", "").removeprefix("bytes ").partition("/")
        start = span.partition("-")[0]
        return int(start) if start.isdecimal() else -1, int(whole) if whole.isdecimal() else None
    length = headers.get("content-length", "")
    return 0, int(length) if length.isdecimal() else None
