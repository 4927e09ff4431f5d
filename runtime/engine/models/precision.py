"""A prepared model at another precision than it was made at: made when first asked for."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from runtime.engine.models.card import Card, Variant, read_card, write_card
from runtime.engine.models.disk import sync
from runtime.engine.models.graphs.int8 import PACKED_INT8, WEIGHTS_INT8, quantise
from runtime.engine.models.leftovers import SCRATCH, beside, discard
from runtime.engine.models.lock import locked
from runtime.engine.models.sample import TEXTS
from runtime.engine.models.store import Store
from runtime.engine.models.verify import faults, inventory
from runtime.engine.scheduler import Form, Pair, Text
from runtime.errors import StartError

if TYPE_CHECKING:
    from numpy import float32, float64
    from numpy.typing import NDArray

    from runtime.engine.model import EmbeddingModel

    Rows = NDArray[float32]

INT8, BFLOAT16 = "int8", "bf16"


def add_int8(card: Card, store: Store) -> Card:
    """The card with a graph of 8 bits beside the others, its loss measured; at once if it is there.

    Raises:
        StartError: the model is damaged, its graph is not of our making, or gives no usable
            numbers so.
        OSError: the disk refuses.
    """
    original = card.variant("fp32")
    if original is None:
        raise StartError(
            f"The model {card.name} has no graph that can be brought to 8 bits: it came as an ONNX export",
            where=card.folder,
            remedy='set precision = "fp32", or give the folder its model.safetensors instead of model.onnx',
        )
    folder = Path(card.folder)
    with locked(folder):
        now = read_card(folder) or card  # somebody else may have made it meanwhile
        if now.variant(INT8):
            return now
        _check_whole(now, store)
        return _made(now, folder / original.graph)


def _check_whole(card: Card, store: Store) -> None:
    from runtime.engine.models.repair import repair

    if found := faults(card):
        raise StartError(
            f"The model {card.name} is damaged: {'; '.join(found)}",
            where=card.folder,
            remedy=repair(store, card),
        )


def _made(card: Card, original: Path) -> Card:
    folder = Path(card.folder)
    scratch = beside(folder, SCRATCH)
    discard(scratch)  # of one that was killed
    scratch.mkdir()
    try:
        quantise(original, scratch)
        sync(*scratch.iterdir())
        files = (*card.files, *inventory(scratch))
        for name in (WEIGHTS_INT8, PACKED_INT8):
            os.replace(scratch / name, folder / name)
        sync(folder)
    finally:
        with suppress(OSError):
            discard(scratch)
    variant = _measured(card, Variant(INT8, PACKED_INT8))
    card = msgspec.structs.replace(card, variants=(*card.variants, variant), files=files)
    write_card(folder, card)
    return card


def _measured(card: Card, variant: Variant) -> Variant:
    """The variant with what it loses."""
    from runtime.engine.model import EmbeddingModel

    card = msgspec.structs.replace(card, variants=(*card.variants, variant))
    exact, rounded = (_answers(EmbeddingModel(card, precision)) for precision in ("fp32", INT8))
    if card.kind == "ranking":  # scores have no direction: how all of them differ from their middle has
        exact, rounded = ((scores - scores.mean()).T for scores in (exact, rounded))
    products = (exact * rounded).sum(axis=1)
    norms = [(rows**2).sum(axis=1) ** 0.5 for rows in (exact, rounded)]
    cosines = products / (norms[0] * norms[1]).clip(1e-12)
    mean, least = (round(float(number), 5) for number in (cosines.mean(), cosines.min()))
    return msgspec.structs.replace(variant, mean=mean, least=least)


def _answers(model: EmbeddingModel) -> NDArray[float64]:
    """What it gives for each of the sample's texts; a cross-encoder for each with its own
    beginning, which fits, and with another text, which hardly does."""
    import numpy as np

    if model.card.kind == "ranking":
        asked = [(text[: len(text) // 2], [text, TEXTS[at - 1]]) for at, text in enumerate(TEXTS)]
        pairs = [pair for query, documents in asked for pair in model.encode_pairs(query, documents)]
        texts: list[Text] = [Pair(pair.ids, pair.types) for pair in pairs]
    else:
        texts = [text.ids for text in model.encode(TEXTS)]
    return np.concatenate([_row(model, text) for text in texts]).astype(np.float64)


def _row(model: EmbeddingModel, text: Text) -> Rows:
    (row,) = model.infer([text], [Form(normalize=False)])
    if isinstance(row, Exception):
        raise StartError(str(row), where=model.card.folder, remedy='set precision = "fp32"') from row
    return row
