"""Encoders' `model.safetensors` as ONNX graphs, written node by node.

Two small graphs share one file of weights: `model.onnx` takes a rectangle of tokens, as other
programs expect it; `packed.onnx` takes texts of any lengths, one after the other, and works on
nothing but their tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runtime.engine.models.graphs.builder import Builder
from runtime.engine.models.graphs.config import Encoder, broken, check_config
from runtime.engine.models.graphs.data import Data
from runtime.engine.models.graphs.network import Network
from runtime.engine.models.graphs.shapes import Packed, Rectangle, Tokens
from runtime.engine.models.graphs.tensors import Tensors
from runtime.engine.models.graphs.weights import Weights

__all__ = ["GRAPH", "PACKED", "WEIGHTS", "check_config", "convert"]

GRAPH = "model.onnx"
PACKED = "packed.onnx"
WEIGHTS = "model.onnx.data"

HIDDEN, LOGITS = "last_hidden_state", "logits"


def convert(source: Path, target: Path, progress: Callable[[int, int], None]) -> None:
    """Write both graphs and their weights into `target`.

    Args:
        source: a folder with `config.json` and `model.safetensors` (32, 16 or bf16 bits).
        progress: told the bytes of weights done, and of all.

    Raises:
        StartError: the files are missing, broken, or of another architecture.
    """
    from safetensors import SafetensorError, safe_open

    encoder = check_config(source / "config.json")
    path = source / "model.safetensors"
    size = path.stat().st_size
    try:
        with safe_open(path, "numpy") as file, open(target / WEIGHTS, "wb") as out:
            data = Data(WEIGHTS, out)
            prefixes = encoder.family.prefixes
            tensors = Tensors(file, path, prefixes, lambda done: progress(min(done, size), size))
            Weights(encoder, tensors, data).write()
    except SafetensorError as error:
        raise broken(path, str(error)) from error
    rectangle, packed = Builder(data), Builder(data)
    _save(encoder, rectangle, Rectangle(rectangle), target / GRAPH)
    _save(encoder, packed, Packed(packed), target / PACKED)


def _save(encoder: Encoder, build: Builder, tokens: Tokens, path: Path) -> None:
    network = Network(encoder, build, tokens)
    rows = network.hidden()
    if encoder.scored:
        build.save(path, network.score(rows), LOGITS, ("batch", 1))
    else:
        value, shape = tokens.result(rows, encoder.hidden)
        build.save(path, value, HIDDEN, shape)
