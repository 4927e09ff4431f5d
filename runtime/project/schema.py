"""What a value in the configuration may be: the check behind every key of ours."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple, NoReturn, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from runtime.errors import ConfigError

Kinds = Mapping[str, Any]
"""Which type the value of each key must have."""

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Amount = Annotated[float, Meta(ge=0, le=1e9)]
HeadSize = Annotated[int, Meta(ge=1, le=256)]  # kilobytes: what is told of it fits a frame
Port = Annotated[int, Meta(ge=0, le=65535)]
Prefix = Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9._~-]+)*\Z")]
Text = Annotated[str, Meta(min_length=1)]

_EXPECTED: dict[Any, str] = {
    bool: "true or false",
    str: "a string",
    tuple[str, ...]: "a list of strings",
    dict[str, Any]: "a table",
    Count: "a whole number from 0 to 2147483647",
    Amount: "a number from 0 to 1000000000",
    HeadSize: "a whole number from 1 to 256",
    Port: "a port number from 0 to 65535",
    Prefix: 'a path that begins with "/" and does not end with one, or ""',
    Text: "a string that is not empty",
}
_RANGED: dict[Any, Any] = {int: Count, float: Amount}


class Place(NamedTuple):
    """A table or a key in the file."""

    file: str
    path: tuple[str, ...] = ()

    def __truediv__(self, key: str) -> Place:
        return Place(self.file, (*self.path, key))

    def __str__(self) -> str:
        return f"{self.file}: {'.'.join(self.path)}" if self.path else self.file


def kinds_of(struct: type[msgspec.Struct], *names: str) -> dict[str, Any]:
    """The kinds of a struct's fields, or of those named; numbers may not be negative."""
    fields = msgspec.structs.fields(struct)
    return {field.name: _kind_of(field.type) for field in fields if not names or field.name in names}


def _kind_of(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(option for option in get_args(annotation) if option is not types.NoneType)
    return _RANGED.get(annotation, annotation)


def table(value: object, place: Place) -> dict[str, Any]:
    """`value`, which must be a table.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, dict):
        return value
    key = place.path[-1]
    wrong(place, value, "a table", remedy=f"write [{'.'.join(place.path)}] and its keys below, not {key} = …")


def read(values: Mapping[str, object], kinds: Kinds, place: Place) -> dict[str, Any]:
    """The values of a table of ours, each checked.

    Raises:
        ConfigError: a key is unknown, or its value has the wrong type or is out of range.
    """
    for key in values:
        if key not in kinds:
            unknown(place / key, kinds)
    return {key: check(value, kinds[key], place / key) for key, value in values.items()}


def check(value: object, kind: Any, place: Place) -> Any:
    """`value` as `kind`; nothing is converted but lists to tuples and whole numbers to floats.

    Raises:
        ConfigError: it is something else.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        wrong(place, value, _expected(kind))


def wrong(place: Place, value: object, expected: str, *, remedy: str = "") -> NoReturn:
    """Say that a value is not what was expected."""
    raise ConfigError(
        f"expected {expected}, found {show(value)}",
        where=str(place),
        remedy=remedy or f"change {place.path[-1]}, or remove it to get the default",
    ) from None


def unknown(place: Place, known: Iterable[str]) -> NoReturn:
    """Say that there is no such key, and which one was probably meant."""
    key = place.path[-1]
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    raise ConfigError(
        f'unknown key "{key}"',
        where=str(place),
        remedy=f'did you mean "{near[0]}"?' if near else f"remove it; known are {', '.join(sorted(known))}",
    )


def _expected(kind: Any) -> str:
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    several = get_origin(kind) is tuple
    choices = get_args(get_args(kind)[0] if several else kind)
    return ("a list of some of " if several else "one of ") + ", ".join(f'"{choice}"' for choice in choices)


def show(value: object) -> str:
    """A value as a person would recognise it, cut to a readable length."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "a table"
        case str():
            return f'the string "{value if len(value) <= 60 else value[:57] + "…"}"'
        case list():
            odd = next((item for item in value if not isinstance(item, str)), None)
            if odd is not None:
                return f"a list that contains {show(odd)}"
            return f"a list of {', '.join(map(repr, value))}"[:60] if value else "a list"
        case _:
            return str(value)[:60]
