"""The model that `make serve` gets ready: what the env file asks for, and what to do about it."""

from __future__ import annotations

import difflib
import io
import os
import shutil
import tempfile
from codecs import BOM_UTF8
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dotenv.parser import parse_stream

from runtime.errors import EnvFileError, ModelNotFound

if TYPE_CHECKING:
    from dotenv.parser import Binding

    from runtime.engine.models.store import Store

VARIABLE = "EMBEDDING_MODEL"

_CONNECT_SECONDS = 3.0


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


def meant(store: Store, name: str) -> str:
    """The model of the catalogue that a name is nearly that of; empty: none."""
    return next(iter(difflib.get_close_matches(name, store.catalogue, 1, 0.8)), "")


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
    """Have an env file name another model; every other byte of it stays, and so do its owner and mode.

    Raises:
        EnvFileError: the model is written there in a way that cannot be replaced.
        OSError: it cannot be written.
    """
    from runtime.project.envfile import parse_env

    content = Path(path).read_bytes()
    text = content.decode("utf-8-sig")
    wanted = parse_env(text, path) | {VARIABLE: model}
    changed = "".join(_renamed(binding, model) for binding in parse_stream(io.StringIO(text, newline="")))
    if parse_env(changed, path) != wanted:
        raise EnvFileError(f"{VARIABLE} cannot be changed there", where=path)
    mark = BOM_UTF8 if content.startswith(BOM_UTF8) else b""
    _write(os.path.realpath(path), mark + changed.encode())


def _renamed(binding: Binding, model: str) -> str:
    """The statement as it was written, with the model instead of its value."""
    written = binding.original.string
    if binding.key != VARIABLE or binding.value is None:
        return written
    name, equals, rest = written.partition("=")
    return name + equals + rest.replace(binding.value, model, 1)


def _write(path: str, content: bytes) -> None:
    """All of it, or nothing: on a full disk the old content stays."""
    facts = os.stat(path)
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, temporary)
        if (facts.st_uid, facts.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(temporary, facts.st_uid, facts.st_gid)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
