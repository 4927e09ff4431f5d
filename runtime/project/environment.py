"""What a function finds in its environment, and nothing more."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import msgspec

from runtime.errors import EnvFileError, UsageError
from runtime.project.envfile import parse_env, without_reserved
from runtime.project.settings import MODEL_VARIABLE, NO_MODEL, Function, Keys, Project
from runtime.project.textfile import read_text

OWN_FILE = ".env"
DATABASE_URL = "SUPABASE_DB_URL"
SERVICE_KEY = "SUPABASE_SERVICE_ROLE_KEY"
SECRET_KEYS = "SUPABASE_SECRET_KEYS"
PRIVILEGED = frozenset({DATABASE_URL, SERVICE_KEY, SECRET_KEYS})
"""What `[functions.NAME] secrets` covers beside the project's variables."""

HANDED_ON = (
    DATABASE_URL,
    *("AI_INFERENCE_API_HOST", "AI_INFERENCE_API_KEY", "AI_INFERENCE_API_MODE", MODEL_VARIABLE),
)
"""Variables of the server itself that functions get too; they win over the env file.

A container is configured by its environment: where the models are is known there, not in a
file that came from somebody's own machine. Nothing else of the server's environment is passed
on but its keys and `OWN_URL`.
"""

OWN_URL = "SUPABASE_URL"
"""Where functions find the project; a server behind a gateway does not know that by itself."""

MAX_BYTES = 512 * 1024
"""Names and values of one function's environment; it travels in one message."""

_URL = re.compile(r"https?://[^/\s]\S*")

BASE = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"}


def environment_of(project: Project, function: Function, *, url: str) -> dict[str, str]:
    """The environment of a function, but for what its worker adds: its own folders and execution id.

    `[functions.NAME] secrets` limits what it sees of the project: the variables, and the keys
    that pass every check. Its own `.env` it always sees.

    Args:
        url: the server, as functions reach it.

    Raises:
        EnvFileError: the function's own `.env` is wrong, or all together is too much.
    """
    shared = _variables(project) | _privileged(project.keys)
    if function.secrets is not None:
        shared = {name: value for name, value in shared.items() if name in function.secrets}
    own, _ = own_environment(function)
    whole = BASE | shared | own | _public(project.keys, function, url)
    size = sum(len(name.encode()) + len(value.encode()) for name, value in whole.items())
    if size > MAX_BYTES:
        raise EnvFileError(
            f"the variables of {function.name} take {size} bytes; at most {MAX_BYTES} can be handed over",
            where=project.settings.env_file or os.path.join(function.directory, OWN_FILE),
            remedy="keep large values in files, or name the ones it needs in [functions.NAME] secrets",
        )
    return whole


def handed_on(environ: Mapping[str, str], project: Mapping[str, str]) -> dict[str, str]:
    """The variables of the server itself that go over those of the project.

    That there is no model, as an image without one says, does not undo the choice of a project
    that brings its own.
    """
    given = {name: environ[name] for name in HANDED_ON if environ.get(name)}
    if given.get(MODEL_VARIABLE) == NO_MODEL and project.get(MODEL_VARIABLE):
        del given[MODEL_VARIABLE]
    return given


def own_url(environ: Mapping[str, str]) -> str:
    """Where functions find the project, as the server's environment says; empty: it says nothing.

    Raises:
        UsageError: it is no URL. The message does not show it: it may be a key in the wrong place.
    """
    url = environ.get(OWN_URL, "")
    if url and not _URL.fullmatch(url):
        raise UsageError(
            "is no URL",
            where=OWN_URL,
            remedy="start it with http:// or https://, or unset it to have functions call this server",
        )
    return url


def own_environment(function: Function) -> tuple[dict[str, str], list[str]]:
    """The variables of the function's own `.env`, if it has one, and notes about skipped names.

    Raises:
        EnvFileError: the file is wrong.
    """
    path = os.path.join(function.directory, OWN_FILE)
    return without_reserved(parse_env(read_text(path, EnvFileError) or "", path), path)


def _variables(project: Project) -> dict[str, str]:
    """Without the word for "no model", which no session could be named with."""
    return {
        name: value
        for name, value in project.environment.items()
        if (name, value) != (MODEL_VARIABLE, NO_MODEL)
    }


def _privileged(keys: Keys) -> dict[str, str]:
    return _present({SERVICE_KEY: keys.service_role_key, SECRET_KEYS: _default(keys.secret)})


def _public(keys: Keys, function: Function, url: str) -> dict[str, str]:
    return _present(
        {
            OWN_URL: url,
            "SUPABASE_ANON_KEY": keys.anon_key,
            "SUPABASE_PUBLISHABLE_KEYS": _default(keys.publishable),
            "SUPABASE_FUNCTION_SLUG": function.name,
        }
    )


def _default(keys: tuple[str, ...]) -> str:
    return msgspec.json.encode({"default": keys[0]}).decode() if keys else ""


def _present(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
