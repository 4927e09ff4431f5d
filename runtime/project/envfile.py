"""Env files: `NAME=value` lines, as python-dotenv reads them, but nothing is passed over in silence.

Quotes, `export`, comments and values of several lines work; `$` stays a `$`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dotenv.parser import parse_stream

from runtime.errors import EnvFileError
from runtime.project.textfile import read_text

if TYPE_CHECKING:
    from dotenv.parser import Binding

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_OURS = "SUPABASE_"
_SIGNING_SECRET = "JWT_SECRET"


def read_env_file(path: str) -> dict[str, str]:
    """The variables in an env file, in its order.

    Raises:
        EnvFileError: there is no such file, it cannot be read, or a line makes no sense.
    """
    text = read_text(path, EnvFileError)
    if text is None:
        raise EnvFileError("there is no such file", where=path, remedy="create it, or change --env-file")
    return parse_env(text, path)


def parse_env(text: str, path: str) -> dict[str, str]:
    """The variables in `text`, which came from `path`.

    Raises:
        EnvFileError: a line makes no sense. The message shows no value.
    """
    bindings = [binding for binding in parse_stream(io.StringIO(text, newline="")) if not _is_blank(binding)]
    return dict(_checked(binding, path) for binding in bindings)


def _is_blank(binding: Binding) -> bool:
    return not binding.error and binding.key is None


def _checked(binding: Binding, path: str) -> tuple[str, str]:
    name, value = binding.key or "", binding.value
    if binding.error:
        problem, remedy = (
            "is not NAME=value",
            "write NAME=value, close every quote, and start comments with #",
        )
    elif not NAME.fullmatch(name):
        problem, remedy = "has a name that no variable can have", "use letters, digits and _ before the ="
    elif value is None:
        # The name is not shown: a line without "=" may be a piece of a secret.
        problem, remedy = (
            "has no =",
            "write NAME=value, NAME= for an empty one, or quote a value of several lines",
        )
    elif "\0" in value:
        problem, remedy = f"{name} contains a NUL character", "encode binary values, for example as base64"
    else:
        return name, value
    raise EnvFileError(problem, where=f"{path}:{_line(binding)}", remedy=remedy)


def _line(binding: Binding) -> int:
    """The parser counts blank lines before a statement as part of it."""
    text = binding.original.string
    blank = text[: len(text) - len(text.lstrip())]
    return binding.original.line + len(re.findall(r"\r\n|\n|\r", blank))


def without_reserved(values: Mapping[str, str], origin: str) -> tuple[dict[str, str], list[str]]:
    """`values` without the names that the server sets or keeps to itself, and notes about those.

    Args:
        origin: the file or table that they came from, for the notes.
    """
    reserved = [name for name in values if name.startswith(_OURS) or name == _SIGNING_SECRET]
    kept = {name: value for name, value in values.items() if name not in reserved}
    return kept, [f"{origin}: {name} is skipped: {_why(name)}" for name in reserved]


def _why(name: str) -> str:
    if name == _SIGNING_SECRET:
        return "the signing secret is read from the environment of the server and never reaches a function"
    return f"names that begin with {_OURS} are set by the server"
