"""What a hub says that a repository holds."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

_LONGEST_PATH = 200  # bytes
_LONGEST_LICENCE = 100


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
        files: those that can be checked.
    """

    revision: str
    licence: str
    files: dict[str, RemoteFile]


# What the hub's description of a repository looks like; all of it is somebody else's word.

_Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{40,64}\Z")]


class _Large(msgspec.Struct):
    sha256: _Digest


class _Sibling(msgspec.Struct, rename="camel"):
    rfilename: str
    size: Annotated[int, msgspec.Meta(ge=0)] | None = None
    blob_id: _Digest | None = None
    lfs: _Large | None = None


class _Description(msgspec.Struct, rename="camel"):
    sha: _Digest
    siblings: list[_Sibling]
    card_data: Any = None


_decoder = msgspec.json.Decoder(_Description)


def read_listing(body: bytes | bytearray) -> Listing:
    """What a hub's answer says of a repository; files that no disk or terminal can name are left out.

    Raises:
        ValueError: it is no description of a repository.
    """
    try:
        said = _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError("no description of a repository") from error
    files = {
        sibling.rfilename: RemoteFile(
            sibling.rfilename,
            sibling.size,
            sibling.lfs.sha256 if sibling.lfs else "",
            sibling.blob_id or "",
        )
        for sibling in said.siblings
        if sibling.size is not None and (sibling.lfs or sibling.blob_id) and _is_path(sibling.rfilename)
    }
    match said.card_data:
        case {"license": str(licence)} if licence.isprintable() and len(licence) <= _LONGEST_LICENCE:
            return Listing(said.sha, licence, files)
    return Listing(said.sha, "", files)


def _is_path(path: str) -> bool:
    """Whether a file may have this name here, and a terminal show it."""
    return path.isprintable() and len(path.encode()) <= _LONGEST_PATH
