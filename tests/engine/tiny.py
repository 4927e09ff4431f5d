"""A BERT of a few kilobytes with random weights, and what it must answer, in plain numpy."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from math import erf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

Weights = dict[str, NDArray[Any]]

HIDDEN, HEADS, LAYERS, INNER, POSITIONS = 16, 2, 2, 24, 32

CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
    "layer_norm_eps": 1e-12,
}

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_LETTERS = string.ascii_lowercase + string.digits + string.punctuation
_WORDS = ["the", "father", "hello", "word"]
VOCABULARY = [*_SPECIAL, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *_WORDS]


def random_weights(seed: int = 7) -> Weights:
    """All tensors of the encoder, under their bare names."""
    random = np.random.default_rng(seed)

    def tensor(*shape: int) -> NDArray[np.float32]:
        return random.normal(0, 0.3, shape).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": tensor(len(VOCABULARY), HIDDEN),
        "embeddings.position_embeddings.weight": tensor(POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": tensor(2, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            weights |= _linear(f"{name}.attention.self.{part}", tensor(HIDDEN, HIDDEN), tensor(HIDDEN))
        weights |= _linear(f"{name}.attention.output.dense", tensor(HIDDEN, HIDDEN), tensor(HIDDEN))
        weights |= _linear(f"{name}.intermediate.dense", tensor(INNER, HIDDEN), tensor(INNER))
        weights |= _linear(f"{name}.output.dense", tensor(HIDDEN, INNER), tensor(HIDDEN))
        norms += [f"{name}.attention.output.LayerNorm", f"{name}.output.LayerNorm"]
    for name in norms:
        weights |= _linear(name, 1 + tensor(HIDDEN), tensor(HIDDEN))
    return weights


def _linear(name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> Weights:
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def write_folder(
    folder: Path,
    weights: Mapping[str, NDArray[Any]] | None = None,
    *,
    rename: Callable[[str], str] = str,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A model folder as transformers would save it."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {rename(name): array for name, array in (weights or random_weights()).items()}
    save_file(named, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | dict(config or {})))
    write_tokenizer(folder / "tokenizer.json")
    return folder


def write_tokenizer(path: Path) -> None:
    """A WordPiece tokenizer whose file asks for padding and an early cut, as real ones do."""
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=24)
    tokenizer.save(str(path))


def encode(weights: Mapping[str, NDArray[Any]], ids: list[int]) -> NDArray[np.float64]:
    """The last hidden state of one text, by the book."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.token_type_embeddings.weight"][0]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = _norm(w, "embeddings.LayerNorm", x)
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        mixed = _apply(w, f"{name}.attention.output.dense", _attend(w, f"{name}.attention.self", x))
        x = _norm(w, f"{name}.attention.output.LayerNorm", x + mixed)
        inner = _apply(w, f"{name}.intermediate.dense", x)
        inner = inner * 0.5 * (1 + np.vectorize(erf)(inner / sqrt(2)))
        x = _norm(w, f"{name}.output.LayerNorm", x + _apply(w, f"{name}.output.dense", inner))
    return x


def _attend(w: Weights, name: str, x: NDArray[Any]) -> NDArray[Any]:
    width = HIDDEN // HEADS
    query, key, value = (_apply(w, f"{name}.{part}", x) for part in ("query", "key", "value"))
    heads = []
    for start in range(0, HIDDEN, width):
        part = slice(start, start + width)
        scores = np.exp(query[:, part] @ key[:, part].T / sqrt(width))
        heads.append(scores / scores.sum(axis=1, keepdims=True) @ value[:, part])
    return np.concatenate(heads, axis=1)


def _apply(w: Weights, name: str, x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(x @ w[f"{name}.weight"].T + w[f"{name}.bias"])


def _norm(w: Weights, name: str, x: NDArray[Any]) -> NDArray[Any]:
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-12)
    return np.asarray(scaled * w[f"{name}.weight"] + w[f"{name}.bias"])
