"""A model hub that speaks the Hugging Face API: what a repository holds, and its files.

huggingface_hub finds the token, makes URLs and headers, and knows what the hub's refusals
mean. The bytes are read here: its own download starts again from nothing after a kill, and
trusts the length of a file instead of its digest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from runtime.engine.models.patience import Attempts, Passing, Patience, Say, wait_of
from runtime.errors import HubError, UsageError
from runtime.version import __version__

if TYPE_CHECKING:
    from types import ModuleType

    import httpx2

DEFAULT_ENDPOINT = "https://huggingface.co"

_YES = {"1", "ON", "YES", "TRUE"}
_TRY_AGAIN = {408, 429, 500, 502, 503, 504}


class RemoteFile(msgspec.Struct, frozen=True):
    """A file of a repository, as the hub describes it.

    Attributes:
        path: inside the repository.
        size: in bytes.
        sha256: of its content; empty where only `blob` is known.
        blob: the SHA-1 that git gives it.
    """

    path: str
    size: int
    sha256: str = ""
    blob: str = ""


class Listing(msgspec.Struct, frozen=True):
    """A repository at one commit.

    Attributes:
        revision: the commit, all of it.
        licence: what the authors say; may be empty.
    """

    revision: str
    licence: str
    files: dict[str, RemoteFile]


def offline() -> bool:
    """`HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`) forbids the network."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in _YES


def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT`, or huggingface.co.

    Raises:
        UsageError: the variable holds no address.
    """
    url = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(
            "is no address of a hub", where="HF_ENDPOINT", remedy=f"write it like {DEFAULT_ENDPOINT}"
        )
    return url


def address_of(url: str) -> str:
    """Host and port of an address, for people: without the password that may stand before them."""
    return urlsplit(url).netloc.rpartition("@")[2]


def answers(url: str, seconds: float) -> bool:
    """Whether anything answers at this address within so many seconds."""
    from threading import Thread

    import httpx2

    heard: list[int] = []

    def ask() -> None:
        with suppress(httpx2.HTTPError, httpx2.InvalidURL, OSError):
            heard.append(httpx2.head(url, timeout=seconds).status_code)

    # A name server that does not answer, and a host of many addresses, take longer than any
    # timeout says: hence a thread that nobody waits for.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(heard)


class Hub:
    """The hub that the environment names. Making it imports huggingface_hub and opens nothing.

    Args:
        say: told of every wait.

    Attributes:
        address: host and port, for people.
    """

    def __init__(self, patience: Patience, say: Say) -> None:
        self._url = endpoint()
        parts = urlsplit(self._url)
        self.address = address_of(self._url)
        self._page = f"{parts.scheme}://{self.address}"
        self._patience, self._say = patience, say
        self._library = _library()
        self._headers = self._who()
        self._silence = patience.silence or float(self._library.constants.HF_HUB_DOWNLOAD_TIMEOUT)

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.close_session()

    def _who(self) -> dict[str, str]:
        """The headers that say who asks, with the token if there is one."""
        headers: dict[str, str]
        try:
            headers = self._library.utils.build_hf_headers(
                library_name="functions-runtime", library_version=__version__
            )
        except OSError as error:
            raise UsageError(
                f"The access token cannot be read: {error.strerror}",
                where=str(error.filename),
                remedy="allow reading it, or set HF_TOKEN or HF_TOKEN_PATH",
            ) from error
        return headers

    def list(self, repository: str, revision: str) -> Listing:
        """What the repository holds.

        Args:
            revision: a branch, a tag or a commit; empty: the newest of the main branch.

        Raises:
            HubError: it cannot be had.
        """
        token = self._headers.get("authorization", "").removeprefix("Bearer ")
        api = self._library.HfApi(self._url, token or False, "functions-runtime", __version__)
        attempts = Attempts(self._patience, self.address, self._say)
        while True:
            try:
                with self._explained(repository, revision):
                    info = api.model_info(
                        repository, revision=revision or None, timeout=self._silence, files_metadata=True
                    )
                return _listing(info)
            except Passing as trouble:
                attempts.failed(trouble)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise self._nonsense("something else than a description of the repository") from error

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
        url = self._library.hf_hub_url(repository, file.path, revision=revision, endpoint=self._url)
        attempts = Attempts(self._patience, self.address, self._say)
        target.touch()
        while (had := target.stat().st_size) < file.size:
            try:
                with self._explained(repository, revision):
                    self._append(url, file, target, done)
            except Passing as trouble:
                attempts.failed(trouble, progress=target.stat().st_size > had)

    def _append(self, url: str, file: RemoteFile, target: Path, done: Callable[[int], None]) -> None:
        start = target.stat().st_size
        # Compressed bytes could neither be counted nor continued.
        headers = (
            self._headers | {"accept-encoding": "identity"} | ({"range": f"bytes={start}-"} if start else {})
        )
        client: httpx2.Client = self._library.get_session()
        with client.stream("GET", url, headers=headers, timeout=self._silence) as response:
            self._check_status(response)
            start = self._start_of(response, file, start)
            with open(target, "r+b") as out:
                out.truncate(start)
                out.seek(start)
                self._copy(response, file, out, done)
        if target.stat().st_size < file.size:
            raise Passing(f"ended {file.path} early")

    def _check_status(self, response: httpx2.Response) -> None:
        if response.status_code in _TRY_AGAIN:
            raise _busy(response)
        try:
            self._library.utils.hf_raise_for_status(response)
        except (AttributeError, TypeError, UnicodeDecodeError) as error:  # it reads the body of a refusal
            raise self._nonsense(f"status {response.status_code} and a body that makes no sense") from error

    def _start_of(self, response: httpx2.Response, file: RemoteFile, asked: int) -> int:
        """The place of the first byte of the body."""
        if "text/html" in response.headers.get("content-type", ""):
            raise self._nonsense(f"a web page instead of {file.path}")
        start, whole = _place(response)
        if start not in {0, asked}:
            raise self._nonsense(f"another part of {file.path} than was asked for")
        if whole not in {None, file.size}:
            raise self._nonsense(f"{whole} bytes of {file.path} instead of {file.size}")
        return start

    def _copy(
        self, response: httpx2.Response, file: RemoteFile, out: Any, done: Callable[[int], None]
    ) -> None:
        for piece in response.iter_bytes():
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

    @contextmanager
    def _explained(self, repository: str, revision: str) -> Iterator[None]:
        """Failures of the library and of the network as `Passing` or `HubError`."""
        import httpx2

        try:
            yield
        except self._library.errors.HfHubHTTPError as error:
            raise self._refusal(error, repository, revision) from error
        except self._library.errors.HFValidationError as error:
            raise UsageError(
                f"{repository!r} is no name of a repository", remedy="write owner/name"
            ) from error
        except self._library.errors.OfflineModeIsEnabled as error:
            raise no_network(repository) from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Passing(f"cannot be reached: {str(error) or 'no answer'}") from error
        except httpx2.TimeoutException as error:
            raise Passing(f"sent no byte for {self._silence:.3g} s") from error
        except (httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
            raise Passing("broke the connection") from error
        except httpx2.HTTPError as error:
            raise HubError(
                f"The model hub cannot be used: {error}",
                where=self.address,
                remedy="check HF_ENDPOINT and proxies",
            ) from error

    def _refusal(self, error: Any, repository: str, revision: str) -> Exception:
        status = error.response.status_code
        if status in _TRY_AGAIN:
            return _busy(error.response)
        what, remedy = self._reason(error, status, repository, revision)
        return HubError(what, where=self.address, remedy=remedy)

    def _reason(self, error: Any, status: int, repository: str, revision: str) -> tuple[str, str]:
        errors = self._library.errors
        token = "set HF_TOKEN to an access token of somebody who may read it"
        if isinstance(error, errors.GatedRepoError):
            return (
                f"{repository} is given only to those who accept its licence",
                f"accept it at {self._page}/{repository}, and {token}",
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{repository} has no revision {revision!r}", "name a branch, a tag or a commit of it"
        if isinstance(error, errors.RemoteEntryNotFoundError):
            return f"{repository} lost a file while it was read", "pull it again"
        if "Invalid credentials" in str(error):
            return "The model hub does not know the access token", "make a new one, and set HF_TOKEN to it"
        if status in {401, 404}:
            return (
                f"There is no repository {repository}, or it is private",
                f"check the name; if it is private, {token}",
            )
        if status == 403:
            return f"The model hub forbids reading {repository}", f"check proxies, or {token}"
        return f"The model hub answers with status {status}", "check HF_ENDPOINT and the name"


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
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise HubError(
            "huggingface_hub is not installed", remedy="pip install 'functions-runtime[engine]'"
        ) from error
    except ValueError as error:
        raise UsageError(f"{error}", where="HF_HUB_DOWNLOAD_TIMEOUT", remedy="write whole seconds") from error
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return huggingface_hub


def _busy(response: httpx2.Response) -> Passing:
    wait = wait_of(response.headers.get("retry-after"))
    return Passing(f"answers with status {response.status_code}", wait)


def _listing(info: Any) -> Listing:
    files = {}
    for sibling in info.siblings:
        if sibling.size is not None and (sibling.lfs or sibling.blob_id):
            sha256 = sibling.lfs.sha256 if sibling.lfs else ""
            file = RemoteFile(sibling.rfilename, sibling.size, sha256, sibling.blob_id or "")
            files[file.path] = msgspec.convert(msgspec.to_builtins(file), RemoteFile)
    if not isinstance(info.sha, str) or not info.sha.isalnum():
        raise ValueError("no commit")
    licence = info.card_data.get("license") if info.card_data else None
    return Listing(info.sha, licence if isinstance(licence, str) else "", files)


def _place(response: httpx2.Response) -> tuple[int, int | None]:
    """Where the body begins in the file, and how long the file is if the answer says so."""
    headers = response.headers
    if response.status_code == 206:
        # "bytes 100-199/200" (RFC 9110, 14.4)
        span, _, whole = headers.get("content-range", "").removeprefix("bytes ").partition("/")
        start = span.partition("-")[0]
        return int(start) if start.isdecimal() else -1, int(whole) if whole.isdecimal() else None
    length = headers.get("content-length", "")
    encoded = headers.get("content-encoding", "identity") != "identity"
    return 0, int(length) if length.isdecimal() and not encoded else None
