"""The files that `functions new` writes, as text."""

from __future__ import annotations

_AUTHORIZATION = '-H "Authorization: Bearer $ANON_KEY" '

_INDEX = '''"""Greet someone by name."""

# Call it:
#   functions invoke {name} -d '{{"name":"Functions"}}'
# or, with the keys of `eval "$(functions keys)"`:
#   curl -X POST http://localhost:54321/functions/v1/{name} \\
#     {authorization}-d '{{"name":"Functions"}}'

from runtime import HTTPException, Request


async def handler(request: Request) -> dict[str, str]:
    data = await request.json() if await request.body() else {{}}
    if not isinstance(data, dict):
        raise HTTPException(400, 'Send a JSON object, like {{"name": "Functions"}}')
    return {{"message": f"Hello {{data.get('name', 'World')}}!"}}
'''


def index_source(name: str, verify_jwt: bool) -> str:
    """The first `index.py` of a function: works as it is, and shows how to call it."""
    return _INDEX.format(name=name, authorization=_AUTHORIZATION if verify_jwt else "")


def open_section(name: str) -> str:
    """The lines of `config.toml` that let everybody call a function."""
    return f"[functions.{name}]\nverify_jwt = false\n"


def appended(text: str, section: str) -> str:
    """`text` with a section at its end, one empty line between them."""
    if not text:
        return section
    return text + ("" if text.endswith("\n") else "\n") + "\n" + section
