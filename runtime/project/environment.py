"""What a function finds in its environment, and nothing more."""

from __future__ import annotations

import os

import msgspec

from runtime.errors import EnvFileError
from runtime.project.envfile import parse_env, without_reserved
from runtime.project.settings import Function, Keys, Project
from runtime.project.textfile import read_text

OWN_FILE = ".env"
DATABASE_URL = "SUPABASE_DB_URL"
SERVICE_KEY = "SUPABASE_SERVICE_ROLE_KEY"
SECRET_KEYS = "SUPABASE_SECRET_KEYS"
PRIVILEGED = frozenset({DATABASE_URL, SERVICE_KEY, SECRET_KEYS})
"""What `[functions.NAME] secrets` covers beside the project's variables."""

HANDED_ON = (
    DATABASE_URL,
    *("AI_INFERENCE_API_HOST", "AI_INFERENCE_API_KEY", "AI_INFERENCE_API_MODE", "EMBEDDING_MODEL"),
)
"""Variables of the server itself that functions get too; they win over the env file.

A container is configured by its environment: where the models are is known there, not in a
file that came from somebody's own machine. Nothing else of the server's environment is passed on.
"""

MAX_BYTES = 512 * 1024
"""Names and values of one function's environment; it travels in one message."""

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
    shared = project.environment | _privileged(project.keys)
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


def own_environment(function: Function) -> tuple[dict[str, str], list[str]]:
    """The variables of the function's own `.env`, if it has one, and notes about skipped names.

    Raises:
        EnvFileError: the file is wrong.
    """
    path = os.path.join(function.directory, OWN_FILE)
    return without_reserved(parse_env(read_text(path, EnvFileError) or "", path), path)


def _privileged(keys: Keys) -> dict[str, str]:
    return _present({SERVICE_KEY: keys.service_role_key, SECRET_KEYS: _default(keys.secret)})


def _public(keys: Keys, function: Function, url: str) -> dict[str, str]:
    return _present(
        {
            "SUPABASE_URL": url,
            "SUPABASE_ANON_KEY": keys.anon_key,
            "SUPABASE_PUBLISHABLE_KEYS": _default(keys.publishable),
            "SUPABASE_FUNCTION_SLUG": function.name,
        }
    )


def _default(keys: tuple[str, ...]) -> str:
    return msgspec.json.encode({"default": keys[0]}).decode() if keys else ""


def _present(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
