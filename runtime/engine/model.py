"""A model in memory: tokenizer, graph, and how its vectors are made of the graph's output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from runtime.engine.batcher import MOST_CORES
from runtime.engine.models.card import Card
from runtime.engine.models.precision import BFLOAT16
from runtime.engine.onnx import Graph, Later, OnnxModel, Opener, PackedModel, Session
from runtime.engine.providers import CPU
from runtime.engine.scheduler import Form, Text
from runtime.engine.tokenizer import Encoded, TextTokenizer
from runtime.engine.vectors import Rows, cut, pool
from runtime.errors import AIError, InvalidInput, StartError
from runtime.tensors import normalized


class EmbeddingModel:
    """A loaded model that has run once, so that the first request waits for nothing.

    Args:
        precision: one that `card.variants` has, "fp32" or "bf16".
        cores: that a text alone may use; with one, it runs like any other.
        providers: what onnxruntime shall run it on, as `Session` has it.

    Attributes:
        dimensions: length of a vector.
        packs: texts of different lengths may run in one batch.

    Raises:
        StartError: one of its files is missing or broken, or they do not fit together.
    """

    def __init__(
        self, card: Card, precision: str = "fp32", cores: int = 1, providers: Sequence[str] = ()
    ) -> None:
        folder = Path(card.folder)
        self.card = card
        self._tokenizer = TextTokenizer(
            folder / "tokenizer.json", card.max_tokens, card.prefix, card.query_prefix, card.lowercase
        )
        path = folder / card.graph_of("fp32" if precision == BFLOAT16 else precision)
        opener = _opener(precision, cores, providers)
        kind = partial(PackedModel if card.packs else OnnxModel, opener=opener)
        self._graph: Graph = kind(path)
        wide = cores > 1 and set(providers) <= {CPU}  # other hardware has its own way with a lone text
        self._wide = Later(kind, path, min(cores, MOST_CORES)) if wide else None
        self.packs = self._graph.packs
        self.dimensions = self._first_run()

    @property
    def wide(self) -> bool:
        """A text alone runs on many cores by now."""
        return self._wide is not None and self._wide.graph is not None

    def check(self, form: Form) -> None:
        """Whether it can give vectors of this form.

        Raises:
            InvalidInput: it cannot.
        """
        if self.card.kind != "embedding":
            raise InvalidInput(f"Model {self.card.name!r} gives no vectors: it ranks documents")
        if form.dimensions not in (0, self.dimensions, *self.card.matryoshka):
            raise InvalidInput(_dimensions_refused(self.card, form.dimensions))
        if not form.mean_pool and not self._graph.per_token:
            raise InvalidInput(
                f"Model {self.card.name!r} has no vectors for single tokens: call it with mean_pool=True"
            )

    def check_ranking(self) -> None:
        """Whether it can rank documents.

        Raises:
            InvalidInput: it cannot.
        """
        if self.card.kind != "ranking":
            raise InvalidInput(
                f"Model {self.card.name!r} ranks no documents: use a cross-encoder, or compare embeddings"
            )

    def encode(self, texts: Sequence[str], *, query: bool = False) -> list[Encoded]:
        """Token ids of each text, or of each question."""
        return self._tokenizer.encode(texts, query=query)

    def encode_pairs(self, query: str, documents: Sequence[str]) -> list[Encoded]:
        """Token ids and types of the query with each document."""
        return self._tokenizer.encode_pairs(query, documents)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, also of the end that would be cut off."""
        return self._tokenizer.count(texts)

    def infer(
        self, batch: Sequence[Text], forms: Sequence[Form], *, alone: bool = False
    ) -> list[Rows | Exception]:
        """Rows of each text; a text whose numbers are none has an error in its place.

        Args:
            batch: texts of any lengths if the model packs, else of one.
            alone: nothing else is running: use more than one core.
        """
        graph = (self._wide.get() if alone and self._wide else None) or self._graph
        output = graph.run(batch)
        return [self._finite(self._form(rows, form)) for rows, form in zip(output, forms, strict=True)]

    def _finite(self, rows: Rows) -> Rows | Exception:
        if np.isfinite(rows).all():
            return rows
        return AIError(
            f"The model {self.card.name!r} gave numbers that are none (NaN or infinity) for this text: its"
            " weights are damaged, or have too large numbers for its precision"
        )

    def _form(self, rows: Rows, form: Form) -> Rows:
        rows = np.atleast_2d(rows)
        if form.mean_pool:
            rows = pool(rows, self.card.pooling)
        if form.dimensions:
            rows = cut(rows, form.dimensions, self.card.centred)
        return normalized(rows) if form.normalize else rows

    def _first_run(self) -> int:
        try:
            (text,) = self.encode(["A text of a few words"])
            (rows,) = self._graph.run([text.ids])
        except Exception as error:  # the library raises bare Exception and classes of its own
            raise self._misfit(f"The model does not run: {error}") from error
        if not np.isfinite(rows).all():
            raise self._misfit("The model gives numbers that are none (NaN or infinity)")
        return int(rows.shape[-1])

    def _misfit(self, why: str) -> StartError:
        return StartError(
            why,
            where=self.card.folder,
            remedy="check that tokenizer and weights are of the same model, or install it again",
        )


def _opener(precision: str, cores: int, providers: Sequence[str]) -> Opener:
    if precision == BFLOAT16:
        from runtime.engine.openvino import Bfloat16Session

        return partial(Bfloat16Session, streams=cores)
    return partial(Session, providers=providers)


def _dimensions_refused(card: Card, dimensions: int) -> str:
    allowed = ", ".join(map(str, sorted({*card.matryoshka, card.dimensions})))
    return f"Model {card.name!r} has no vectors of {dimensions} numbers: its vectors may have {allowed}"
