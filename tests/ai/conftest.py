from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from runtime.ai import host


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Workers run uvloop; scripts that use a session may not."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(autouse=True)
def bare_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No models, and no LLM server of the machine's own."""
    for name in ("AI_INFERENCE_API_HOST", "AI_INFERENCE_API_KEY", "AI_INFERENCE_API_MODE"):
        monkeypatch.delenv(name, raising=False)
    host.install([])
    yield
    host.install([])
