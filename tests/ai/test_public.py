from __future__ import annotations

import subprocess
import sys

from runtime import ai
from runtime.errors import FunctionsError


def test_the_public_names_are_these() -> None:
    assert ai.__all__ == [
        "AIError",
        "Chunk",
        "EngineUnavailable",
        "HostNotConfigured",
        "HostUnreachable",
        "IncompleteStream",
        "InferenceSession",
        "InferenceTimeout",
        "InputTooLarge",
        "InvalidInput",
        "InvalidMode",
        "ModelBroken",
        "ModelNotFound",
        "Ranked",
        "Session",
        "Stream",
        "TensorInfo",
        "Timeout",
        "UpstreamError",
        "Usage",
    ]
    assert all(hasattr(ai, name) for name in ai.__all__)


def test_every_error_is_one_of_ours_and_caught_as_an_ai_error() -> None:
    errors = [
        value
        for name in ai.__all__
        if isinstance(value := getattr(ai, name), type) and issubclass(value, Exception)
    ]
    assert len(errors) == 12
    assert all(issubclass(error, ai.AIError) and issubclass(error, FunctionsError) for error in errors)


def test_importing_ai_loads_neither_an_http_client_nor_numpy() -> None:
    code = (
        "import sys, runtime.ai; print([m for m in ('httpx2', 'numpy', 'onnxruntime') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
