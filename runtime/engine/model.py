"""A model in memory: tokenizer, graph, and how its vectors are made of the graph's output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.engine.models.card import Card
from runtime.engine.onnx import OnnxModel
from runtime.engine.scheduler import Form
from runtime.engine.tokenizer import Encoded, TextTokenizer
from runtime.engine.vectors import Rows, normalized, pool
from runtime.errors import InvalidInput, StartError


class EmbeddingModel:
    """A loaded model that has run once, so that the first request waits for nothing.

    Attributes:
        dimensions: length of a vector.

    Raises:
        StartError: one of its files is missing or broken, or they do not fit together.
    """

    def __init__(self, card: Card) -> None:
        folder = Path(card.folder)
        self.card = card
        self._tokenizer = TextTokenizer(folder / "tokenizer.json", card.max_tokens, card.prefix)
        self._graph = OnnxModel(folder / card.graph)
        self.dimensions = self._first_run()

    def check(self, form: Form) -> None:
        """Whether it can give vectors of this form.

        Raises:
            InvalidInput: it cannot.
        """
        if not form.mean_pool and not self._graph.per_token:
            raise InvalidInput(
                f"Model {self.card.name!r} has no vectors for single tokens: call it with mean_pool=True"
            )

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Token ids of each text."""
        return self._tokenizer.encode(texts)

    def infer(self, batch: Sequence[Sequence[int]], forms: Sequence[Form]) -> list[Rows]:
        """Rows of each text of a batch of texts of one length."""
        output = self._graph.run(batch)
        return [self._form(rows, form) for rows, form in zip(output, forms, strict=True)]

    def _form(self, rows: Rows, form: Form) -> Rows:
        rows = np.atleast_2d(rows)
        if form.mean_pool:
            rows = pool(rows, self.card.pooling)
        return normalized(rows) if form.normalize else rows

    def _first_run(self) -> int:
        try:
            (text,) = self.encode(["A text of a few words"])
            (row,) = self._graph.run([text.ids])
        except Exception as error:  # the library raises bare Exception and classes of its own
            raise StartError(
                f"The model does not run: {error}",
                where=self.card.folder,
                remedy="check that tokenizer and weights are of the same model",
            ) from error
        return int(row.shape[-1])
