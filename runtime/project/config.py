"""`supabase/config.toml`: the keys of a Supabase project with their meaning there, ours beside them.

Tables that are not ours are ignored; in ours every key must be known. The format of the
peer's keys follows https://supabase.com/docs/guides/local-development/cli/config.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import msgspec

from runtime.errors import ConfigError
from runtime.project.envfile import NAME
from runtime.project.schema import (
    HeadSize,
    Place,
    Port,
    Prefix,
    Text,
    check,
    kinds_of,
    read,
    table,
    wrong,
)
from runtime.project.settings import AI, Auth, Cors, Function, Limits, Model, Setting, Settings
from runtime.project.textfile import read_text

PATH = os.path.join("supabase", "config.toml")

TOP = ("project_id", "api", "edge_runtime", "functions", "auth", "ai")
API = {"port": Port}
AUTH = kinds_of(Auth)
AI_KEYS = kinds_of(AI, "models_dir", "preload", "threads", "providers", "memory_mb")
MODEL = kinds_of(Model)
CORS = kinds_of(Cors)
LIMITS = kinds_of(Limits)
FUNCTION = kinds_of(
    Function, "enabled", "verify_jwt", "entrypoint", "static_files", "cors", "retry", "secrets"
)
EDGE_RUNTIME = kinds_of(
    Settings,
    "enabled",
    "policy",
    "hosts",
    "trusted_proxies",
    "head_s",
    "shutdown_s",
    "max_workers_total",
    "memory_mb_total",
    "log_format",
) | {"host": Text, "prefix": Prefix, "inspector_port": Port, "max_head_kb": HeadSize}
EDGE_RUNTIME_TABLES = ("secrets", "defaults", "cors")

SKIPPED = {"deno_version": "Python runs here"}
SKIPPED_IN_FUNCTION = {
    "import_map": "Python has no import maps",
    "env": "put these variables into the function's own .env file",
}
_SCRIPTS = (".ts", ".tsx", ".js", ".jsx", ".mjs")
_ENV = re.compile(r"env\((.+)\)")
_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class Declared(Setting, frozen=True, kw_only=True):
    """`[functions.NAME]`: keyword arguments for `Function`, and its limits."""

    options: dict[str, Any] = msgspec.field(default_factory=dict)
    limits: Limits = Limits()


class Config(Setting, frozen=True, kw_only=True):
    """The file, checked.

    Attributes:
        settings: keyword arguments for `Settings`, only those that the file sets.
        limits: `[edge_runtime.defaults]`.
        functions: `[functions.NAME]` by name, whether the function exists or not.
        secrets: `[edge_runtime.secrets]` with the environment put in.
    """

    file: str
    settings: dict[str, Any]
    limits: Limits
    functions: dict[str, Declared]
    secrets: dict[str, str]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Config({self.file!r})"


def read_config(root: str, environ: Mapping[str, str]) -> Config:
    """The configuration of the project at `root`; all defaults if there is no file.

    Raises:
        ConfigError: the file is unreadable, is no TOML, or a key of ours is wrong.
    """
    file = os.path.join(root, PATH)
    return parse_config(read_text(file, ConfigError) or "", file, environ)


def parse_config(text: str, file: str, environ: Mapping[str, str]) -> Config:
    """The configuration in `text`, which came from `file`.

    Raises:
        ConfigError: as `read_config`.
    """
    document, here, notes = _parse(text, file), Place(file), list[str]()
    notes += _lookalikes(document)
    edge = table(document.get("edge_runtime", {}), here / "edge_runtime")
    at = here / "edge_runtime" / "defaults"
    limits = _limits(read(table(edge.get("defaults", {}), at), LIMITS, at), Limits(), at)
    return Config(
        file=file,
        settings=_settings(document, edge, here, notes),
        limits=limits,
        functions=_functions(document.get("functions", {}), limits, here / "functions", notes),
        secrets=_secrets(edge.get("secrets", {}), environ, here / "edge_runtime" / "secrets", notes),
        notes=tuple(notes),
    )


def _parse(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        where, reason = _locate(str(error), text)
        raise ConfigError(
            f"is not valid TOML: {reason}",
            where=f"{file}:{where}",
            remedy=f"correct it at line {where.split(':')[0]}; strings need quotes, tables look like [api]",
        ) from None


def _locate(message: str, text: str) -> tuple[str, str]:
    """`line:column` and the rest of a message of tomllib."""
    found = _POSITION.search(message)
    lines = text.splitlines() or [""]
    line, column = found.groups() if found else ("1", "1")
    return f"{line or len(lines)}:{column or len(lines[-1]) + 1}", _POSITION.sub("", message)


def _lookalikes(document: Mapping[str, object]) -> list[str]:
    """A table that is not ours may be one of ours, misspelt: ignored, but not in silence."""
    notes = []
    for key in document.keys() - TOP:
        if near := difflib.get_close_matches(key, TOP, n=1, cutoff=0.8):
            notes.append(f'{PATH}: [{key}] is ignored; did you mean "{near[0]}"?')
    return sorted(notes)


def _settings(
    document: dict[str, Any], edge: dict[str, Any], here: Place, notes: list[str]
) -> dict[str, Any]:
    place = here / "edge_runtime"
    plain = {key: value for key, value in edge.items() if key not in EDGE_RUNTIME_TABLES}
    _skip(plain, SKIPPED, place, notes)
    settings = read(plain, {**EDGE_RUNTIME, **dict.fromkeys(EDGE_RUNTIME_TABLES)}, place)
    _check_proxies(settings.get("trusted_proxies", ()), place / "trusted_proxies")
    if "project_id" in document:
        settings["project_id"] = check(document["project_id"], str, here / "project_id")
    settings |= read(_ours(document, "api", API, here), API, here / "api")
    settings["auth"] = Auth(**read(_ours(document, "auth", AUTH, here), AUTH, here / "auth"))
    settings["cors"] = Cors(**read(table(edge.get("cors", {}), place / "cors"), CORS, place / "cors"))
    settings["ai"] = _ai(document.get("ai", {}), here / "ai")
    return settings


def _ai(value: object, place: Place) -> AI:
    values = read(table(value, place), {**AI_KEYS, "models": dict[str, Any]}, place)
    at = place / "models"
    models = {
        name: Model(**read(table(keys, at / name), MODEL, at / name))
        for name, keys in values.pop("models", {}).items()
    }
    return AI(**values, models=models)


def _ours(document: dict[str, Any], key: str, kinds: Mapping[str, Any], here: Place) -> dict[str, Any]:
    """Of a table that we share with the peer, the keys that are ours."""
    return {name: value for name, value in table(document.get(key, {}), here / key).items() if name in kinds}


def _check_proxies(proxies: tuple[str, ...], place: Place) -> None:
    for proxy in proxies:
        try:
            ipaddress.ip_network(proxy, strict=False)
        except ValueError:
            wrong(place, proxy, 'addresses or networks such as "10.0.0.2" or "10.0.0.0/8"')


def _skip(values: dict[str, Any], skipped: Mapping[str, str], place: Place, notes: list[str]) -> None:
    """Take out keys that mean something to the peer and nothing here."""
    for key, reason in skipped.items():
        if values.pop(key, ""):
            notes.append(f"{PATH}: {'.'.join((place / key).path)} is skipped: {reason}")


def _limits(given: Mapping[str, Any], base: Limits, place: Place) -> Limits:
    limits = msgspec.structs.replace(base, **{key: given[key] for key in LIMITS if key in given})
    if limits.max_workers and limits.min_workers > limits.max_workers:
        raise ConfigError(
            f"min_workers ({limits.min_workers}) is more than max_workers ({limits.max_workers})",
            where=str(place / ("min_workers" if "min_workers" in given else "max_workers")),
            remedy="lower min_workers or raise max_workers",
        )
    return limits


def _functions(value: object, base: Limits, place: Place, notes: list[str]) -> dict[str, Declared]:
    tables = {name: dict(table(keys, place / name)) for name, keys in table(value, place).items()}
    return {name: _declared(keys, base, place / name, notes) for name, keys in tables.items()}


def _declared(keys: dict[str, Any], base: Limits, place: Place, notes: list[str]) -> Declared:
    _skip(keys, SKIPPED_IN_FUNCTION, place, notes)
    given = read(keys, FUNCTION | LIMITS, place)
    entrypoint = given.get("entrypoint", "")
    if entrypoint.endswith(_SCRIPTS):
        at = ".".join((place / "entrypoint").path)
        notes.append(f'{PATH}: {at} is skipped: "{entrypoint}" is no Python file; index.py is used')
    if not entrypoint or entrypoint.endswith(_SCRIPTS):
        given.pop("entrypoint", None)
    options = {key: value for key, value in given.items() if key in FUNCTION}
    return Declared(options=options, limits=_limits(given, base, place))


def _secrets(value: object, environ: Mapping[str, str], place: Place, notes: list[str]) -> dict[str, str]:
    secrets = {}
    for name, content in table(value, place).items():
        text = _secret(name, content, place)
        reference = _ENV.fullmatch(text)
        if reference and reference[1] not in environ:
            notes.append(f"{PATH}: {name} is skipped: the environment has no {reference[1]}")
        elif text.startswith("encrypted:"):
            notes.append(f"{PATH}: {name} is skipped: encrypted values cannot be read; use env({name})")
        else:
            # The peer's tools read keys without regard to case and hand them on in capitals.
            secrets[name.upper()] = environ[reference[1]] if reference else text
    return secrets


def _secret(name: str, value: object, place: Place) -> str:
    """`value` if it can be a variable's; it is never shown, it may be a secret all the same."""
    if not NAME.fullmatch(name):
        problem, remedy = "no variable can have this name", "use letters, digits and _"
    elif not isinstance(value, str):
        problem, remedy = (
            f"expected a string, found one of type {type(value).__name__}",
            "put quotes around it",
        )
    elif "\0" in value:
        problem, remedy = "contains a NUL character", "encode binary values, for example as base64"
    else:
        return value
    raise ConfigError(problem, where=str(place / name), remedy=remedy)
