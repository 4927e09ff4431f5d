"""Embeddings and LLMs, for handlers."""

from __future__ import annotations

from runtime.ai.llm.chunk import Chunk
from runtime.ai.llm.stream import Stream
from runtime.ai.session import Session, Usage
from runtime.ai.timeout import Timeout
from runtime.errors import (
    AIError,
    EngineUnavailable,
    HostNotConfigured,
    HostUnreachable,
    IncompleteStream,
    InferenceTimeout,
    InputTooLarge,
    InvalidInput,
    InvalidMode,
    ModelNotFound,
    UpstreamError,
)

__all__ = [
    "AIError",
    "Chunk",
    "EngineUnavailable",
    "HostNotConfigured",
    "HostUnreachable",
    "IncompleteStream",
    "InferenceTimeout",
    "InputTooLarge",
    "InvalidInput",
    "InvalidMode",
    "ModelNotFound",
    "Session",
    "Stream",
    "Timeout",
    "UpstreamError",
    "Usage",
]
