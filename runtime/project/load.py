"""A project as it is on disk: the one way in.

Flags win over the environment, that over `supabase/config.toml`, that over the defaults.
Nothing is written but the local signing secret, on first use and on loopback only.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

import msgspec

from runtime.errors import EnvFileError, UsageError
from runtime.project import static
from runtime.project.config import PATH, Config, read_config
from runtime.project.discovery import find_functions
from runtime.project.envfile import read_env_file, without_reserved
from runtime.project.environment import OWN_URL, PRIVILEGED, handed_on, own_environment, own_url
from runtime.project.keys import load_keys
from runtime.project.schema import Prefix
from runtime.project.settings import AI, Function, Options, Project, Settings

TEST_LIMITS = "FUNCTIONS_TEST_LIMITS"
"""Set to 1 in the server's environment: requests may bring limits of their own, for tests."""

_PATHS = ("/", "./", "../")  # what `ai.Session` takes for a folder

ENV_FILE = os.path.join("supabase", "functions", ".env")


def find_root(start: str) -> str:
    """The nearest folder at or above `start` that holds `supabase/` or `functions/`.

    Raises:
        UsageError: there is none.
    """
    start = folder = os.path.abspath(start)
    while True:
        if _is_root(folder):
            return folder
        parent = os.path.dirname(folder)
        if parent == folder:
            raise UsageError(
                "neither this folder nor one above it holds functions/ or supabase/",
                where=start,
                remedy="start a project here with `functions new hello`, or name one with --root",
            )
        folder = parent


def _is_root(folder: str) -> bool:
    if os.path.isdir(os.path.join(folder, "supabase")):
        return True
    # `supabase/functions` belongs to the project around it.
    inside = os.path.basename(folder) == "supabase"
    return not inside and os.path.isdir(os.path.join(folder, "functions"))


def load(options: Options, environ: Mapping[str, str]) -> Project:
    """Read the project at `options.root`.

    A function's own mistakes (its code, its `.env`) do not stop the others: they show when
    it is started.

    Raises:
        ConfigError: `supabase/config.toml`, or two functions of the same name.
        EnvFileError: the env file of the project.
        KeysError: the signing secret or a key.
        UsageError: a flag, `VERIFY_JWT` or `SUPABASE_URL`.
    """
    root = os.path.abspath(options.root)
    if not os.path.isdir(root):
        raise UsageError("there is no such folder", where=root, remedy="check --root")
    config = read_config(root, environ)
    settings = _settings(root, options, config, environ)
    environment, skipped = _environment(settings.env_file, config, environ)
    functions, ignored = find_functions(root, config)
    notes = [
        *config.notes,
        *_notes(settings, environ),
        *skipped,
        *ignored,
        *_own_notes(functions.values(), environment),
    ]
    return Project(
        settings=settings,
        functions=functions,
        environment=environment,
        keys=load_keys(root, environ, loopback=is_loopback(settings.host)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _notes(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """What flags and the environment may have changed without its being noticed."""
    notes = []
    if settings.verify_jwt is False:
        notes.append("every function answers without a key (VERIFY_JWT=false or --no-verify-jwt)")
    if settings.test_limits:
        notes.append(f"every request may set its own limits ({TEST_LIMITS}), which is for tests alone")
    if settings.url and not environ.get("JWT_SECRET"):
        notes.append(
            f"{OWN_URL} is set without JWT_SECRET: functions call the project at "
            f"{urlsplit(settings.url).netloc.rpartition('@')[2]}; unset it to have them call this server"
        )
    return notes


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _settings(root: str, options: Options, config: Config, environ: Mapping[str, str]) -> Settings:
    if options.port is not None and not 0 <= options.port <= 65535:
        raise UsageError(
            f"{options.port} is no port number", where="--port", remedy="use one from 0 to 65535"
        )
    if options.host == "":
        raise UsageError(
            "is empty", where="--host", remedy="use 127.0.0.1, or 0.0.0.0 to serve every network"
        )
    said = {
        "host": options.host,
        "port": options.port,
        "prefix": _prefix(options.prefix),
        "verify_jwt": options.verify_jwt if options.verify_jwt is not None else _verify_jwt(environ),
    }
    if options.log_format != "auto":
        said["log_format"] = options.log_format
    given = config.settings | {key: value for key, value in said.items() if value is not None}
    given["host"] = given.get("host", "127.0.0.1").strip("[]")
    given["ai"] = with_absolute_paths(root, given["ai"])
    given |= {"url": own_url(environ), "env_file": _env_file(root, options)}
    return Settings(**given, root=root, test_limits=_test_limits(given["host"], environ))


def _test_limits(host: str, environ: Mapping[str, str]) -> bool:
    """Whether requests may bring limits of their own, as the project's tests do."""
    if environ.get(TEST_LIMITS, "") in ("", "0"):
        return False
    if not is_loopback(host):
        raise UsageError(
            "lets every client set its own limits, which is for tests on this machine alone",
            where=TEST_LIMITS,
            remedy=f"unset it, or listen on 127.0.0.1 instead of {host}",
        )
    return True


def _prefix(said: str | None) -> str | None:
    try:
        return msgspec.convert(said, Prefix | None)
    except msgspec.ValidationError:
        raise UsageError(
            f"{said!r} is no prefix", where="--prefix", remedy='use a path like /functions/v1, or ""'
        ) from None


def _verify_jwt(environ: Mapping[str, str]) -> bool | None:
    """What `VERIFY_JWT` says for every function, as with a self-hosted Supabase; True leaves it to them."""
    said = environ.get("VERIFY_JWT", "").lower()
    if said not in ("", "true", "false"):
        raise UsageError("is neither true nor false", where="VERIFY_JWT", remedy="set it to one of them")
    return False if said == "false" else None


def with_absolute_paths(root: str, ai: AI) -> AI:
    """The settings with every folder in them made absolute."""

    def absolute(path: str) -> str:
        return os.path.normpath(os.path.join(root, os.path.expanduser(path)))

    return msgspec.structs.replace(
        ai,
        models_dir=absolute(ai.models_dir) if ai.models_dir else "",
        models={absolute(name) if name.startswith(_PATHS) else name: ai.models[name] for name in ai.models},
    )


def _env_file(root: str, options: Options) -> str | None:
    if options.env_file is not None:
        return os.path.abspath(options.env_file)
    default = os.path.join(root, ENV_FILE)
    return default if os.path.lexists(default) else None


def _environment(
    env_file: str | None, config: Config, environ: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """What functions may see of the project, and notes about the names that were skipped."""
    configured, notes = without_reserved(config.secrets, f"{PATH}: edge_runtime.secrets")
    from_file: dict[str, str] = {}
    if env_file is not None:
        from_file, skipped = without_reserved(read_env_file(env_file), env_file)
        notes += skipped
    project = configured | from_file
    return project | handed_on(environ, project), notes


def _own_notes(functions: Iterable[Function], environment: Mapping[str, str]) -> list[str]:
    notes = []
    for function in functions:
        notes += static.find(function).notes
        own: Mapping[str, str] = {}
        try:
            own, skipped = own_environment(function)
            notes += skipped
        except EnvFileError as error:
            notes.append(str(error))
        for name in function.secrets or ():
            if name not in environment and name not in own and name not in PRIVILEGED:
                notes.append(f'functions.{function.name}.secrets names "{name}", which is set nowhere')
    return notes
