"""Embeddings, rankings, graphs of one's own and LLMs, for handlers."""

from __future__ import annotations

from runtime.ai.inference import InferenceSession, TensorInfo
from runtime.ai.llm.chunk import Chunk
from runtime.ai.llm.stream import Stream
from runtime.ai.session import Ranked, Session, Usage
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
    ModelBroken,
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
