"""Writes `docs/configuration.md`: `make docs`, or `python -m docs.reference`.

The tables come from what reads the configuration: keys and defaults from the structs, the
meaning of a key from its struct's docstring, flags from the command. A test fails when the
page is not what this would write.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from runtime.cli.serve import command as serve
from runtime.project import config
from runtime.project.settings import AI, Auth, Cors, Function, Limits, Model, Setting, Settings

PAGE = Path(__file__).with_name("configuration.md")

INTRODUCTION = """\
# Configuration

<!-- Written by `make docs` from the code that reads the settings: change it there. -->

Flags win over the environment, the environment over `supabase/config.toml`, and that over the
defaults below. Every key is optional. In the tables of this page a key that is misspelt is an error;
tables of Supabase that have no meaning here are ignored, and so are its own keys of `[api]` and
`[auth]`.

Changes to functions, limits, variables, keys and `enabled` are picked up while the server runs. Host,
port, models and how they are run, CORS, proxies, `max_head_kb`, `head_s`, `shutdown_s` and `log_format`
need a restart.

## `supabase/config.toml`

```toml
project_id = "shop"

[api]
port = 54321

[edge_runtime.defaults]
max_body_mb = 10

[edge_runtime.secrets]
STRIPE_KEY = "env(STRIPE_KEY)"

[functions.webhook]
verify_jwt = false
secrets = ["STRIPE_KEY"]
idle_s = 30
```
"""

SECRETS = """
### `[edge_runtime.secrets]`

Variables for every function. `NAME = "env(OTHER)"` takes the value from the shell that starts the server.
"""

ENVIRONMENT = """
## Environment of the server

| variable | meaning |
|---|---|
| `JWT_SECRET` | the secret that signs keys; none: a random one in `supabase/.functions/` |
| `SUPABASE_JWKS` | public keys of tokens signed elsewhere: JSON, a file or a URL |
| `SUPABASE_ANON_KEY`, `SUPABASE_SERVICE_ROLE_KEY` | keys made elsewhere |
| `SUPABASE_PUBLISHABLE_KEY`, `SUPABASE_SECRET_KEY` | the newer form, `sb_…` |
| `SUPABASE_PUBLISHABLE_KEYS`, `SUPABASE_SECRET_KEYS` | several of them, as a JSON object of keys by name |
| `VERIFY_JWT` | `false`: no function needs a key, as with `--no-verify-jwt` |
| `SUPABASE_URL` | where functions find the project, with `http://` or `https://`; none: this server |
| `SUPABASE_DB_URL`, `EMBEDDING_MODEL`, `AI_INFERENCE_API_…` | handed on to functions, over the env file; \
`EMBEDDING_MODEL=none` gives way to a model that the env file names |
| `FUNCTIONS_TEST_LIMITS` | `1`: requests may set their own limits, with \
`x-limit-timeout-ms`, `x-limit-idle-ms` and `x-limit-cpu-ms`; for tests, and on loopback alone |
| `XDG_DATA_HOME` | models are kept below it; none: `~/.local/share` |
| `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` | for `functions models pull`: see [AI models](ai.md) |
| `WATCHFILES_FORCE_POLLING` | look for saved files every so often, where the file system sends no events |
| `NO_COLOR` | no colours on the terminal |

The names are those of a self-hosted Supabase. `JWT_SECRET` never reaches a function; what does is in
[Writing functions](functions.md#variables).

## Variables that `ai` reads in a function

| variable | meaning |
|---|---|
| `AI_INFERENCE_API_HOST` | address of the LLM server, with its base path if it has one |
| `AI_INFERENCE_API_KEY` | sent to it as a bearer token |
| `AI_INFERENCE_API_MODE` | `ollama` (the default) or `openaicompatible` |
"""

TABLES: tuple[tuple[str, str, type[Setting], Iterable[str]], ...] = (
    ("Project", "", Settings, ("project_id",)),
    ("`[api]`", "", Settings, config.API),
    ("`[edge_runtime]`", "", Settings, config.EDGE_RUNTIME),
    ("`[edge_runtime.secrets]`", SECRETS, Setting, ()),
    ("`[edge_runtime.cors]`", "How preflights are answered.", Cors, config.CORS),
    (
        "`[edge_runtime.defaults]`",
        "Limits of every function; `[functions.NAME]` may have each of them too. 0 switches a limit off.",
        Limits,
        config.LIMITS,
    ),
    ("`[functions.NAME]`", "", Function, config.FUNCTION),
    ("`[auth]`", "", Auth, config.AUTH),
    ("`[ai]`", "", AI, config.AI_KEYS),
    (
        "`[ai.models.NAME]`",
        'Of one model. A name with a dot, a slash or a path in it stands in quotes: `[ai.models."./mine"]`.',
        Model,
        config.MODEL,
    ),
)
"""Heading, what to say below it, and which keys of which struct follow."""

_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n     +\S.*)*)$", re.MULTILINE)


def page() -> str:
    """The whole page."""
    tables = (_section(heading, said, struct, keys) for heading, said, struct, keys in TABLES)
    return INTRODUCTION + "".join(tables) + _flags() + ENVIRONMENT


def meanings(struct: type[Setting]) -> dict[str, str]:
    """What a struct's docstring says of each field, on one line."""
    _, _, attributes = inspect.cleandoc(struct.__doc__ or "").partition("\nAttributes:\n")
    return {name: " ".join(said.split()) for name, said in _ATTRIBUTE.findall(attributes)}


def _section(heading: str, said: str, struct: type[Setting], keys: Iterable[str]) -> str:
    if said == SECRETS:
        return SECRETS
    return f"\n### {heading}\n" + (f"\n{said}\n" if said else "") + _table(struct, set(keys))


def _table(struct: type[Setting], keys: set[str]) -> str:
    said = meanings(struct)
    lines = ["", "| key | default | meaning |", "|---|---|---|"]
    for field in msgspec.structs.fields(struct):
        if field.name in keys:
            lines.append(f"| `{field.name}` | {_default(field.default)} | {said[field.name]} |")
    return "\n".join([*lines, ""])


def _default(value: object) -> str:
    return "none" if value is None else f"`{json.dumps(value)}`"


def _flags() -> str:
    lines = ["", "## Flags of `functions serve`", "", "| flag | meaning |", "|---|---|"]
    context = click.Context(serve)
    for parameter in serve.params:
        if isinstance(parameter, click.Option):
            name, _ = parameter.get_help_record(context) or ("", "")
            lines.append(f"| `{_escaped(name)}` | {_escaped(parameter.help or '')} |")
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
