"""The nodes of an encoder, on weights that `weights.py` wrote."""

from __future__ import annotations

from runtime.engine.models.graphs.attention import Attention
from runtime.engine.models.graphs.builder import Builder
from runtime.engine.models.graphs.config import Encoder
from runtime.engine.models.graphs.shapes import Tokens


class Network:
    """An encoder in a graph. It is the plain one: onnxruntime's own optimisations do more for
    it on a CPU than fusions by hand."""

    def __init__(self, encoder: Encoder, build: Builder, tokens: Tokens) -> None:
        self._encoder, self._build, self._tokens = encoder, build, tokens

    def hidden(self) -> str:
        """The last hidden state, a row per token."""
        attention = Attention(self._encoder, self._build, self._tokens)
        value = self._embedded()
        for layer in range(self._encoder.layers):
            value = self._layer(f"layer.{layer}", value, attention)
        return value

    def score(self, rows: str) -> str:
        """One number for each text."""
        build, head = self._build, self._encoder.family.head
        assert head is not None
        first = build.op("Gather", rows, self._tokens.starts())
        return self._linear("head.out", build.op(head.activation, self._linear("head.dense", first)))

    def _embedded(self) -> str:
        tables = [name for name in ("words", "types", "positions") if name in self._build.data]
        total, *others = map(self._tokens.embedded, tables)
        for other in others:
            total = self._build.op("Add", total, other)
        return self._tokens.rows(self._norm("norm", total))

    def _layer(self, name: str, value: str, attention: Attention) -> str:
        build = self._build
        mixed = self._linear(f"{name}.mixed", attention.mixed(self._linear(f"{name}.qkv", value)))
        value = self._norm(f"{name}.mixed_norm", build.op("Add", mixed, value))
        outer = self._linear(f"{name}.outer", self._activated(self._linear(f"{name}.inner", value)))
        return self._norm(f"{name}.outer_norm", build.op("Add", outer, value))

    def _activated(self, value: str) -> str:
        build, approximation = self._build, self._encoder.approximation
        if approximation != "gated":
            return build.op("Gelu", value, approximate=approximation)
        content, gate = build.ops(2, "Split", value, axis=1, num_outputs=2)
        return build.op("Mul", content, build.op("Mul", gate, build.op("Sigmoid", gate)))

    def _linear(self, name: str, value: str) -> str:
        shift = f"{name}.bias"
        weights = [name, *([shift] if shift in self._build.data else ())]
        return self._build.op("Gemm", value, *map(self._build.weight, weights))

    def _norm(self, name: str, value: str) -> str:
        scale, shift = (self._build.weight(f"{name}.{part}") for part in ("weight", "bias"))
        return self._build.op(
            "LayerNormalization", value, scale, shift, axis=-1, epsilon=self._encoder.epsilon
        )
