"""What a function imports."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime import ai, testing

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
    "is_cancelled",
    "time_left",
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


# what else is public: signatures and docstrings

SIGNATURES = {
    "runtime.JSONResponse": "(content=None, status_code=200, headers=None, media_type=None, background=None)",
    "runtime.wait_until": "(awaitable)",
    "runtime.ai.Session": "(model, *, host=None, api_key=None, mode=None, headers=None)",
    "runtime.ai.Session.ready": "(self, *, timeout=60)",
    "runtime.ai.Session.run": "(self, prompt, *, mean_pool=True, normalize=True, dimensions=None, "
    "query=False, stream=False, timeout=60, mode=None, **body)",
    "runtime.ai.Session.embed": "(self, texts, *, normalize=True, dimensions=None, query=False, timeout=60, "
    "mode=None, **body)",
    "runtime.ai.Session.rank": "(self, query, documents, *, top=None, timeout=60)",
    "runtime.ai.Session.count": "(self, text, *, timeout=60)",
    "runtime.ai.Ranked": "(index, score, document)",
    "runtime.ai.InferenceSession": "(path)",
    "runtime.ai.InferenceSession.ready": "(self, *, timeout=60)",
    "runtime.ai.InferenceSession.run": "(self, inputs, *, outputs=None, timeout=60)",
    "runtime.ai.TensorInfo": "(name, dtype, shape)",
    "runtime.ai.Stream.aclose": "(self)",
    "runtime.ai.Stream.sse": "(self)",
    "runtime.ai.Stream.text": "(self)",
    "runtime.ai.Stream.raw": "(self)",
    "runtime.ai.Stream.body": "(self)",
    "runtime.ai.Timeout": "(connect=5, first_token=None, idle=None, total=60)",
    "runtime.ai.UpstreamError": "(status, body)",
    "runtime.ai.InferenceTimeout": "(message='')",
    "runtime.ai.Usage": "(tokens, truncated)",
    "runtime.testing.FunctionClient": "(function, *, root=None, env=None, sessions=None, claims=None, "
    "verify_jwt=True, raise_errors=False)",
    "runtime.testing.FunctionClient.websocket": "(self, path='/', *, headers=None, subprotocols=())",
    "runtime.testing.FunctionClient.async_client": "(self)",
    "runtime.testing.FunctionClient.token": "(claims=None)",
    "runtime.testing.FakeSession": "(model='gte-small', *, dimensions=None, max_tokens=None, kind=None, "
    "replies=None, mode=None)",
    "runtime.testing.FakeInferenceSession": "(answer, path='model.onnx')",
}


def public(module: Any) -> Iterator[tuple[str, Any]]:
    """What is ours of the public names of a module, and the public attributes of its classes."""
    for name in module.__all__:
        value = getattr(module, name)
        if not getattr(value, "__module__", "").startswith("runtime"):
            continue
        yield f"{module.__name__}.{name}", value
        if isinstance(value, type):
            for key, attribute in vars(value).items():
                if not key.startswith("_") and (callable(attribute) or isinstance(attribute, property)):
                    yield f"{module.__name__}.{name}.{key}", attribute


EVERYTHING = dict([*public(runtime), *public(ai), *public(testing)])


@pytest.mark.parametrize("name", SIGNATURES)
def test_what_functions_call_keeps_its_signature(name: str) -> None:
    signature = inspect.signature(EVERYTHING[name])
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()
    ]
    plain = inspect.Signature(bare)
    assert str(plain) == SIGNATURES[name]


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_public_name_says_what_it_is(name: str) -> None:
    value = EVERYTHING[name]
    own = value.fget.__doc__ if isinstance(value, property) else value.__doc__
    assert own, name
    assert own.strip().split("\n\n")[0].rstrip().endswith((".", "?", ":")), own


def test_the_names_of_the_testing_kit_are_these() -> None:
    assert testing.__all__ == [
        "AsyncFunctionClient",
        "Call",
        "FakeInferenceSession",
        "FakeSession",
        "FunctionClient",
    ]


def test_types_are_part_of_the_package() -> None:
    assert (Path(runtime.__file__).parent / "py.typed").is_file()
