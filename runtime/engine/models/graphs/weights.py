"""From a family's own tensors to those of our graphs, which are the same for all families."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from runtime.engine.models.graphs.config import Encoder
from runtime.engine.models.graphs.data import Data
from runtime.engine.models.graphs.tensors import Tensors

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    Array = NDArray[float32]

_ROUND = 64  # the largest step that `engine.openvino` rounds a text's length up to
_FARTHEST = 128  # mpnet tells no two distances beyond this one apart


class Weights:
    """Writes the weights of an encoder: transposed for a product with rows, joined where one
    product serves for several, scaled where that saves scaling later."""

    def __init__(self, encoder: Encoder, tensors: Tensors, data: Data) -> None:
        self._encoder, self._tensors, self._data = encoder, tensors, data

    def write(self) -> None:
        """All of them.

        Raises:
            StartError: a tensor is not there, or has another shape than it should.
        """
        encoder = self._encoder
        self._embeddings()
        self._norm("norm", encoder.family.norm)
        for layer in range(encoder.layers):
            self._layer(f"layer.{layer}", encoder.family.layer.format(layer))
        if encoder.scored and encoder.family.head is not None:
            self._linear("head.dense", [encoder.family.head.dense], [encoder.hidden], encoder.hidden)
            self._linear("head.out", [encoder.family.head.out], [1], encoder.hidden)

    def _embeddings(self) -> None:
        encoder, take = self._encoder, self._tensors.take
        hidden = encoder.hidden
        self._data.add("words", take("embeddings.word_embeddings.weight", -1, hidden))
        types = self._types()
        rotary = encoder.family.places == "rotary"
        if types is not None and (rotary or len(types) > 1):
            self._data.add("types", types)
        if rotary:
            self._rotations()
            return
        table = take("embeddings.position_embeddings.weight", -1, hidden)[encoder.first :]
        # Where all texts are of one type, what it adds is added here.
        self._data.add("positions", table if types is None or len(types) > 1 else table + types)
        if encoder.family.places == "relative":
            self._distances(len(table))

    def _types(self) -> Array | None:
        name = "embeddings.token_type_embeddings.weight"
        return self._tensors.take(name, -1, self._encoder.hidden) if name in self._tensors else None

    def _layer(self, name: str, source: str) -> None:
        encoder, parts = self._encoder, self._encoder.family.parts
        hidden = encoder.hidden
        joined = [f"{source}.{part}" for part in parts.qkv]
        self._linear(f"{name}.qkv", joined, [3 * hidden // len(joined)] * len(joined), hidden, self._scale())
        self._linear(f"{name}.mixed", [f"{source}.{parts.mixed}"], [hidden], hidden)
        self._norm(f"{name}.mixed_norm", f"{source}.{parts.mixed_norm}")
        inner = [f"{source}.{part}" for part in parts.inner]
        middle = self._linear(f"{name}.inner", inner, [-1] * len(inner), hidden) // len(inner)
        self._linear(f"{name}.outer", [f"{source}.{parts.outer}"], [hidden], middle)
        self._norm(f"{name}.outer_norm", f"{source}.{parts.outer_norm}")

    def _scale(self) -> Array:
        """Scaling the query's weights once saves scaling every score."""
        import numpy as np

        scale = np.ones(3 * self._encoder.hidden, np.float32)
        scale[: self._encoder.hidden] = 1 / sqrt(self._encoder.width)
        return scale

    def _linear(
        self, name: str, sources: list[str], sizes: list[int], width: int, scale: Array | None = None
    ) -> int:
        """A matrix [width, outputs] and what is added to its product; how many outputs it has."""
        import numpy as np

        take = self._tensors.take
        rows = [take(f"{source}.weight", size, width) for source, size in zip(sources, sizes, strict=True)]
        matrix = np.concatenate(rows).T
        self._data.add(name, matrix if scale is None else matrix * scale)
        if self._encoder.family.biased:
            parts = [take(f"{source}.bias", len(part)) for source, part in zip(sources, rows, strict=True)]
            shift = np.concatenate(parts)
            self._data.add(f"{name}.bias", shift if scale is None else shift * scale)
        return int(matrix.shape[1])

    def _norm(self, name: str, source: str) -> None:
        for part in ("weight", "bias"):
            self._data.add(f"{name}.{part}", self._tensors.take(f"{source}.{part}", self._encoder.hidden))

    def _distances(self, longest: int) -> None:
        """What mpnet adds to a score, by head and by how far apart two tokens are."""
        import numpy as np

        table = self._tensors.take("encoder.relative_attention_bias.weight", -1, self._encoder.heads)
        distances = np.arange(1 - longest, longest)
        half = len(table) // 2
        exact = half // 2
        far = np.maximum(np.abs(distances), 1).astype(np.float32)
        share = np.log(far / np.float32(exact)) / np.float32(np.log(_FARTHEST / exact))
        coarse = np.minimum(exact + (share * np.float32(half - exact)).astype(np.int64), half - 1)
        bucket = np.where(np.abs(distances) < exact, np.abs(distances), coarse)
        self._data.add("distances", table[bucket + half * (distances > 0)].T)

    def _rotations(self) -> None:
        """Cosines and sines of the angles that a token's position turns queries and keys by.

        For more positions than a text may have: OpenVINO's rectangles are rounded up.
        """
        import numpy as np

        encoder = self._encoder
        steps = np.arange(0, encoder.width, 2) / encoder.width
        angles = np.outer(np.arange(-(-encoder.longest // _ROUND) * _ROUND), encoder.rotary_base**-steps)
        angles = np.concatenate([angles, angles], axis=1)
        self._data.add("cosines", np.cos(angles).astype(np.float32))
        self._data.add("sines", np.sin(angles).astype(np.float32))
