"""The model that `make serve` gets ready: what the env file asks for, and what to do about it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runtime.errors import ModelNotFound

if TYPE_CHECKING:
    from runtime.engine.models.store import Store

VARIABLE = "EMBEDDING_MODEL"

_CONNECT_SECONDS = 3.0
_LINE = re.compile(rf"^([ \t]*(?:export[ \t]+)?{VARIABLE}[ \t]*=)[^\r\n]*", re.MULTILINE)


class Choice(NamedTuple):
    """What to do; at most one of the two.

    Attributes:
        prepare: the model, here already, to convert unless that was done.
        pull: fetch the model that was asked for.
    """

    prepare: str = ""
    pull: bool = False


def choose(store: Store, wanted: str) -> Choice:
    """What to do about the model that the env file names. Uses no network.

    Args:
        wanted: empty where it names none; `NO_MODEL` where none is wished for.
    """
    from runtime.engine.models.catalogue import EMBEDDED, PackageSource
    from runtime.project.settings import NO_MODEL

    if wanted == NO_MODEL:
        return Choice()
    if not wanted or store.find(wanted) is not None:
        return Choice(prepare=wanted or EMBEDDED)
    entry = store.catalogue.get(wanted)
    if entry is not None:
        from_package = isinstance(entry.source, PackageSource)
        return Choice(prepare=wanted) if from_package else Choice(pull=True)
    return Choice(pull=_is_repository(store, wanted))


def _is_repository(store: Store, name: str) -> bool:
    """Paths are loaded from where they are, and other names are those of an LLM server."""
    try:
        store.folder(name)
    except ModelNotFound:
        return False
    return "/" in name


def reason_not_to_pull() -> str:
    """Why no hub can be asked; empty: it answers. Takes three seconds at most."""
    from runtime.engine.models.hub import address_of, answers, endpoint, offline

    if offline():
        return "HF_HUB_OFFLINE forbids it"
    url = endpoint()
    return "" if answers(url, _CONNECT_SECONDS) else f"the model hub {address_of(url)} is out of reach"


def variable(path: str) -> str:
    """The model that an env file names; empty: none.

    Raises:
        EnvFileError: there is no such file, or a line of it makes no sense.
    """
    from runtime.project.envfile import read_env_file

    return read_env_file(path).get(VARIABLE, "")


def replace_variable(path: str, model: str) -> None:
    """Have an env file name another model; every other byte of it stays.

    Raises:
        OSError: it cannot be written.
    """
    file = Path(path)
    text = file.read_bytes().decode()
    file.write_bytes(_LINE.sub(rf"\g<1>{model}", text).encode())
