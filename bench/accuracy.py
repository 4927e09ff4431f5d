"""What each precision loses and gains: cosines of a real model, speed on one core without a server."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from bench import gte, speeds
from bench.servers import MODEL
from bench.table import Number
from bench.traffic import ROOT

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from runtime.engine.model import EmbeddingModel
    from runtime.engine.scheduler import Text

    Vectors = NDArray[float64]

REFERENCE = ROOT / "tests" / "data" / "all-minilm-l6-v2.json"
MEAN = {"bf16": 0.9999, "int8": 0.997}
LEAST = {"bf16": 0.9999}
ALIKE = 0.99999
_TOGETHER = 6  # texts of a batch at most: two to six of any lengths run together


def measure(precisions: Sequence[str] | None = None, rounds: int = speeds.ROUNDS) -> list[Number]:
    """Cosines of the real model, alone and in company; speeds of gte-small's shape."""
    from runtime.engine.models.sample import TEXTS

    precisions = precisions or available()
    exact = gte.model(MODEL, "fp32")
    rows = json.loads(REFERENCE.read_bytes())["rows"]
    reference = cosines(vectors(exact, [row["text"] for row in rows]), [row["vector"] for row in rows])
    numbers = [_cosine("real MiniLM, fp32 to the reference: least cosine", min(reference), 0.9999)]
    expected = vectors(exact, TEXTS)
    for precision in precisions:
        model = exact if precision == "fp32" else gte.model(MODEL, precision)
        alone = vectors(model, TEXTS)
        if model is not exact:
            found, what = cosines(alone, expected), f"{precision} to fp32"
            mean = f"{what}: mean cosine of {len(TEXTS)} texts"
            numbers += [
                _cosine(mean, fmean(found), MEAN[precision]),
                _cosine(f"{what}: least cosine", min(found), LEAST.get(precision)),
            ]
        beside = min(cosines(alone, company(model, TEXTS)))
        numbers.append(_cosine(f"{precision}, alone and in a batch: least cosine", beside, ALIKE))
    return [*numbers, *speeds.measure(precisions, rounds)]


def available() -> list[str]:
    """The precisions that this machine can be asked for."""
    from runtime.engine.providers import check_bfloat16
    from runtime.errors import StartError

    try:
        check_bfloat16()
    except StartError as error:
        print(f"  bf16: {error.message}")
        return ["fp32", "int8"]
    return ["fp32", "bf16", "int8"]


def _cosine(what: str, value: float, least: float | None) -> Number:
    return Number(what=f"2 {what}", value=value, unit="", least=least, digits=6)


def cosines(
    ones: Vectors | Sequence[Sequence[float]], others: Vectors | Sequence[Sequence[float]]
) -> list[float]:
    """Of each row with the other's."""
    import numpy as np

    pairs = np.asarray(ones, np.float64), np.asarray(others, np.float64)
    first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in pairs)
    return [float(cosine) for cosine in (first * second).sum(axis=1)]


def vectors(model: EmbeddingModel, texts: Sequence[str]) -> Vectors:
    """Each text by itself."""
    import numpy as np

    return np.concatenate([_infer(model, [text.ids]) for text in model.encode(texts)])


def company(model: EmbeddingModel, texts: Sequence[str], seed: int = 1) -> Vectors:
    """Each text together with others, of other lengths."""
    import numpy as np

    chance = random.Random(seed)
    order = list(range(len(texts)))
    chance.shuffle(order)
    encoded, found = model.encode(texts), [np.empty(0)] * len(texts)
    left = iter(order)
    while batch := list(itertools.islice(left, chance.randint(2, _TOGETHER))):
        rows = _infer(model, [encoded[place].ids for place in batch])
        for place, row in zip(batch, rows, strict=True):
            found[place] = row
    return np.array(found)


def _infer(model: EmbeddingModel, texts: Sequence[Text]) -> Vectors:
    import numpy as np

    from runtime.engine.scheduler import Form

    rows = model.infer(texts, [Form()] * len(texts))
    return np.concatenate([row.astype(np.float64) for row in rows if not isinstance(row, Exception)])
