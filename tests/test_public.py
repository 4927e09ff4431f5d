"""What a function imports."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import runtime

NAMES = [
    "FileResponse",
    "HTMLResponse",
    "HTTPException",
    "JSONResponse",
    "RedirectResponse",
    "Request",
    "Response",
    "StreamingResponse",
    "UploadFile",
    "WebSocket",
    "WebSocketDisconnect",
    "__version__",
    "ai",
    "wait_until",
]


def loaded_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after this."""
    source = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True).stdout
    return set(json.loads(output))


def test_the_public_names_are_these() -> None:
    assert sorted(runtime.__all__) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(runtime, name) is getattr(runtime, name)
    assert name in dir(runtime) or name == "ai" or name in vars(runtime)


def test_the_names_are_those_that_the_type_checker_sees() -> None:
    import ast
    from pathlib import Path

    tree = ast.parse(Path(runtime.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname or alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == set(NAMES)


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Reqest'; it has FileResponse, .*wait_until"):
        runtime.Reqest  # noqa: B018
    with pytest.raises(ImportError):
        from runtime import nothing_of_this_name  # noqa: F401


def test_importing_the_package_loads_nothing_else() -> None:
    heavy = {"starlette", "anyio", "msgspec", "httpx2", "numpy", "runtime.ai", "uvloop"}
    assert not loaded_after("import runtime") & heavy


@pytest.mark.parametrize("name", ["Request", "Response", "ai", "wait_until"])
def test_no_name_loads_what_belongs_to_another_process(name: str) -> None:
    loaded = loaded_after(f"from runtime import {name}")
    foreign = {"numpy", "onnxruntime", "tokenizers", "uvicorn", "click", "rich", "jwt", "watchfiles"}
    assert not loaded & foreign
    assert not {module for module in loaded if module.startswith(("runtime.gateway", "runtime.engine"))}


def test_everything_can_be_imported_at_once() -> None:
    assert "runtime.ai" in loaded_after("from runtime import *")
