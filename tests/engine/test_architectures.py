"""Every architecture that we convert, against what transformers answers with the same weights
(bench/reference_architectures.py)."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from runtime.engine.models.graphs import GRAPH, PACKED, WEIGHTS, convert
from runtime.engine.models.graphs.int8 import PACKED_INT8, quantise
from runtime.engine.onnx import OnnxModel, PackedModel
from runtime.engine.scheduler import Pair, Text
from runtime.engine.vectors import Rows, pool
from runtime.errors import StartError

from .architectures import EMBEDDING, HEADS, HIDDEN, LONGEST, RANKING, pairs, texts

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "architectures.json").read_text())
TEXTS = texts()
PAIRS = [Pair(ids, types) for ids, types in pairs()]

Run = Callable[[Sequence[Text]], list[Rows]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """Converts a model once."""
    root, made = tmp_path_factory.mktemp("architectures"), set()

    def convert_once(name: str, scored: bool) -> Path:
        target = root / f"{name}-{scored}"
        if target not in made:
            source = (RANKING if scored else EMBEDDING)[name].write(target / "source")
            convert(source, target, lambda done, total: None)
            made.add(target)
        return target

    return convert_once


def alone(path: Path) -> Run:
    model = OnnxModel(path / GRAPH)
    return lambda batch: [rows for text in batch for rows in model.run([text])]


def packed_alone(path: Path) -> Run:
    model = PackedModel(path / PACKED)
    return lambda batch: [rows for text in batch for rows in model.run([text])]


def packed(path: Path) -> Run:
    return PackedModel(path / PACKED).run


def packed_by_two(path: Path) -> Run:
    """Too few for a rectangle more."""
    model = PackedModel(path / PACKED)
    return lambda batch: [rows for at in range(0, len(batch), 2) for rows in model.run(batch[at : at + 2])]


def padded(path: Path) -> Run:
    """As other programs run the graph: filled up to one length, and masked."""
    session = onnxruntime.InferenceSession(path / GRAPH, providers=["CPUExecutionProvider"])

    def run(batch: Sequence[Text]) -> list[Rows]:
        feeds = {
            name: np.zeros((len(batch), LONGEST), np.int64)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        for row, text in enumerate(batch):
            ids, types = (text.ids, text.types) if isinstance(text, Pair) else (text, 0)
            feeds["input_ids"][row, : len(text)] = ids
            feeds["attention_mask"][row, : len(text)] = 1
            feeds["token_type_ids"][row, : len(text)] = types
        wanted = {declared.name for declared in session.get_inputs()}
        (output,) = session.run(None, {name: feed for name, feed in feeds.items() if name in wanted})
        return [np.atleast_2d(rows[: len(text)]) for text, rows in zip(batch, output, strict=True)]

    return run


WAYS = [alone, packed_alone, packed, packed_by_two, padded]


def close(rows: NDArray[np.float32], expected: Sequence[Sequence[float]]) -> bool:
    """Whether directions are the same, and so is every number."""
    wanted = np.array(expected)
    cosines = (rows * wanted).sum(axis=1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(wanted, axis=1)
    return bool(cosines.min() >= 0.99999 and np.abs(rows - wanted).max() < 1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EMBEDDING)
def test_vectors_equal_those_of_transformers_at_every_pooling(
    folder: Callable[[str, bool], Path], name: str, way: Callable[[Path], Run]
) -> None:
    hidden = way(folder(name, False))(TEXTS)
    for pooling in ("mean", "cls"):
        vectors = np.concatenate([pool(rows, pooling) for rows in hidden])
        assert close(vectors, REFERENCE["embedding"][name][pooling])
    assert close(hidden[0], REFERENCE["embedding"][name]["tokens"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", RANKING)
def test_scores_of_pairs_equal_those_of_transformers(
    folder: Callable[[str, bool], Path], name: str, way: Callable[[Path], Run]
) -> None:
    scores = np.concatenate(way(folder(name, True))(PAIRS))
    assert scores.shape == (len(PAIRS), 1)
    assert np.allclose(scores[:, 0], REFERENCE["ranking"][name], atol=1e-4)


ANGLES = 2 * -(-LONGEST // 64) * 64 * HIDDEN // HEADS
MADE_OF_POSITIONS = {"mpnet": 4 * HEADS * (2 * LONGEST - 1), "nomic_bert": 4 * ANGLES}


@pytest.mark.parametrize("name", EMBEDDING)
def test_no_weight_is_kept_twice(folder: Callable[[str, bool], Path], name: str) -> None:
    path = folder(name, False)
    kept: dict[str, int] = {}
    for graph in (GRAPH, PACKED):
        for tensor in onnx.load(str(path / graph), load_external_data=False).graph.initializer:
            told = {entry.key: entry.value for entry in tensor.external_data}
            kept |= {told["offset"]: int(told["length"])} if told else {}
    tensors = sum(array.nbytes for array in EMBEDDING[name].weights().values())
    assert 0.99 * tensors < sum(kept.values()) <= tensors + MADE_OF_POSITIONS.get(name, 0)
    assert (path / WEIGHTS).stat().st_size <= sum(kept.values()) + 4096 * len(kept)
    assert (path / GRAPH).stat().st_size + (path / PACKED).stat().st_size < 28_000


@pytest.mark.parametrize("prefix", ["", "bert.", "nomic_bert."])
def test_nomic_may_have_either_prefix(tmp_path: Path, prefix: str) -> None:
    source = EMBEDDING["nomic_bert"].write(tmp_path)
    weights = {f"{prefix}{name}": array for name, array in EMBEDDING["nomic_bert"].weights().items()}
    save_file(weights, source / "model.safetensors")
    convert(source, source, lambda done, total: None)
    (rows,) = packed(source)(TEXTS[:1])
    assert close(rows, REFERENCE["embedding"]["nomic_bert"]["tokens"])


def test_an_encoder_without_types_is_one_whose_only_type_adds_nothing(tmp_path: Path) -> None:
    name = "embeddings.token_type_embeddings.weight"
    weights, answers = EMBEDDING["bert-tanh"].weights(), list[Rows]()
    for types in ({name: np.zeros((1, HIDDEN), np.float32)}, {}):
        source = EMBEDDING["bert-tanh"].write(tmp_path / f"{len(types)}")
        del weights[name]
        weights |= types
        save_file(weights, source / "model.safetensors")
        convert(source, source, lambda done, total: None)
        answers.append(np.concatenate(packed(source)(TEXTS)))
    assert np.array_equal(answers[0], answers[1])


@pytest.mark.parametrize("name", EMBEDDING)
def test_eight_bits_turn_vectors_little_and_the_same_way_in_any_batch(
    folder: Callable[[str, bool], Path], name: str
) -> None:
    path = folder(name, False)
    quantise(path / PACKED, path)
    exact, rounded = PackedModel(path / PACKED), PackedModel(path / PACKED_INT8)
    together = [rows.mean(axis=0) for rows in rounded.run(TEXTS)]
    for text, vector in zip(TEXTS, together, strict=True):
        assert np.allclose(vector, rounded.run([text])[0].mean(axis=0), atol=1e-5)
        wanted = exact.run([text])[0].mean(axis=0)
        assert vector @ wanted / np.linalg.norm(vector) / np.linalg.norm(wanted) >= 0.99


def test_a_large_table_of_words_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    base, words = EMBEDDING["bert"], 100_000
    tensors = {**base.tensors, "embeddings.word_embeddings.weight": (words, HIDDEN)}
    convert(base._replace(tensors=tensors).write(tmp_path), tmp_path, lambda done, total: None)
    tracemalloc.start()
    try:
        quantise(tmp_path / PACKED, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < words * HIDDEN * 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("name", "kept"), [(WEIGHTS, 5000), (WEIGHTS, 0), (PACKED, 1000), (PACKED, 9000)])
def test_a_graph_or_weights_cut_off_are_broken(tmp_path: Path, name: str, kept: int) -> None:
    convert(EMBEDDING["bert"].write(tmp_path), tmp_path, lambda done, total: None)
    os.truncate(tmp_path / name, kept)
    with pytest.raises(StartError, match=r"packed\.onnx.*broken"):
        quantise(tmp_path / PACKED, tmp_path)
