"""Small models of every architecture that we convert, with weights that any machine makes alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

HIDDEN, HEADS, LAYERS, INNER, LONGEST, WORDS = 32, 4, 2, 48, 160, 200

Shapes = Mapping[str, tuple[int, ...]]

_SIZES = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "intermediate_size": INNER,
    "vocab_size": WORDS,
    "max_position_embeddings": LONGEST,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}


class Architecture(NamedTuple):
    """A model's configuration, and the shapes of its tensors by their names."""

    config: Mapping[str, Any]
    tensors: Shapes

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Random ones; sums of them neither vanish nor run over."""
        random = np.random.default_rng(5)
        return {
            name: (
                random.normal(0, 0.3, shape) + ("norm" in name.lower() and name.endswith("weight"))
            ).astype("f4")
            for name, shape in self.tensors.items()
        }

    def write(self, folder: Path) -> Path:
        """A model folder as transformers would save it, without a tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.weights(), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.config))
        return folder


def texts() -> list[list[int]]:
    """Token ids of texts of all lengths; none is a special token of any of the models."""
    random = np.random.default_rng(6)
    return [random.integers(5, WORDS, length).tolist() for length in (7, 1, 40, 2, 19, LONGEST, 3)]


def pairs() -> list[tuple[list[int], list[int]]]:
    """The same texts as two that are read as one: ids, and which of the two a token belongs to."""
    return [(ids, [int(place > len(ids) // 3) for place in range(len(ids))]) for ids in texts()]


def _linear(
    name: str, outputs: int, inputs: int, *, bias: bool = True
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (HIDDEN,)
    yield f"{name}.bias", (HIDDEN,)


def _encoder(layer: str, parts: Mapping[str, str], positions: int = LONGEST, types: int = 2) -> Shapes:
    """Tensors of an encoder whose layers have parts with these names."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (WORDS, HIDDEN),
        "embeddings.position_embeddings.weight": (positions, HIDDEN),
    }
    if types:
        shapes["embeddings.token_type_embeddings.weight"] = (types, HIDDEN)
    shapes |= _norm("embeddings.LayerNorm")
    for number in range(LAYERS):
        for part, name in parts.items():
            full = f"{layer.format(number)}.{name}"
            if part == "norm" or name.endswith("orm"):
                shapes |= _norm(full)
            else:
                outputs = INNER if part == "inner" else HIDDEN
                shapes |= _linear(full, outputs, INNER if part == "outer" else HIDDEN)
    return shapes


_BERT_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mixed": "attention.output.dense",
    "mixed_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "outer_norm": "output.LayerNorm",
}

_MPNET_PARTS = _BERT_PARTS | {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "mixed": "attention.attn.o",
    "mixed_norm": "attention.LayerNorm",
}

_DISTILBERT_PARTS = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "mixed": "attention.out_lin",
    "mixed_norm": "sa_layer_norm",
    "inner": "ffn.lin1",
    "outer": "ffn.lin2",
    "outer_norm": "output_layer_norm",
}

_ROBERTA_SIZES = _SIZES | {"max_position_embeddings": LONGEST + 2, "type_vocab_size": 1, "pad_token_id": 1}

_MPNET_SIZES = _ROBERTA_SIZES | {"model_type": "mpnet", "relative_attention_num_buckets": 32}

_DISTILBERT_SIZES = {
    "model_type": "distilbert",
    "dim": HIDDEN,
    "n_heads": HEADS,
    "n_layers": LAYERS,
    "hidden_dim": INNER,
    "vocab_size": WORDS,
    "max_position_embeddings": LONGEST,
    "activation": "gelu",
}

_BERT = Architecture(
    _SIZES | {"model_type": "bert", "architectures": ["BertModel"]},
    _encoder("encoder.layer.{}", _BERT_PARTS),
)
_TANH = Architecture(
    {**_BERT.config, "hidden_act": "gelu_new", "type_vocab_size": 1},
    _encoder("encoder.layer.{}", _BERT_PARTS, types=1),
)
_ROBERTA = Architecture(
    _ROBERTA_SIZES | {"model_type": "roberta", "architectures": ["RobertaModel"]},
    _encoder("encoder.layer.{}", _BERT_PARTS, positions=LONGEST + 2, types=1),
)
_DISTILBERT = Architecture(
    _DISTILBERT_SIZES | {"architectures": ["DistilBertModel"]},
    _encoder("transformer.layer.{}", _DISTILBERT_PARTS, types=0),
)
_MPNET = Architecture(
    _MPNET_SIZES | {"architectures": ["MPNetModel"]},
    {
        **_encoder("encoder.layer.{}", _MPNET_PARTS, positions=LONGEST + 2, types=0),
        "encoder.relative_attention_bias.weight": (32, HEADS),
    },
)


def _nomic() -> Architecture:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (WORDS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    shapes |= _norm("emb_ln")
    for number in range(LAYERS):
        layer = f"encoder.layers.{number}"
        shapes |= _linear(f"{layer}.attn.Wqkv", 3 * HIDDEN, HIDDEN, bias=False)
        shapes |= _linear(f"{layer}.attn.out_proj", HIDDEN, HIDDEN, bias=False)
        shapes |= _linear(f"{layer}.mlp.fc11", INNER, HIDDEN, bias=False)
        shapes |= _linear(f"{layer}.mlp.fc12", INNER, HIDDEN, bias=False)
        shapes |= _linear(f"{layer}.mlp.fc2", HIDDEN, INNER, bias=False)
        shapes |= {**dict(_norm(f"{layer}.norm1")), **dict(_norm(f"{layer}.norm2"))}
    config = {
        "model_type": "nomic_bert",
        "architectures": ["NomicBertModel"],
        "n_embd": HIDDEN,
        "n_head": HEADS,
        "n_layer": LAYERS,
        "n_inner": INNER,
        "n_positions": 8192,
        "max_trained_positions": LONGEST,
        "vocab_size": WORDS,
        "type_vocab_size": 2,
        "activation_function": "swiglu",
        "layer_norm_epsilon": 1e-5,
        "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "prenorm": False,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
    }
    return Architecture(config, shapes)


def _scored(base: Architecture, prefix: str, name: str, *head: tuple[str, int]) -> Architecture:
    """The architecture with a head that gives one number."""
    shapes = {f"{prefix}.{tensor}": shape for tensor, shape in base.tensors.items()}
    for tensor, outputs in head:
        shapes |= _linear(tensor, outputs, HIDDEN)
    config = {"architectures": [f"{name}ForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    return Architecture({**base.config, **config, "label2id": {"LABEL_0": 0}}, shapes)


EMBEDDING = {
    "bert": _BERT,
    "bert-tanh": _TANH,
    "roberta": _ROBERTA,
    "distilbert": _DISTILBERT,
    "mpnet": _MPNET,
    "nomic_bert": _nomic(),
}
_OUT = ("classifier.dense", HIDDEN), ("classifier.out_proj", 1)
_XLM = _ROBERTA._replace(config={**_ROBERTA.config, "model_type": "xlm-roberta"})
RANKING = {
    "bert": _scored(_BERT, "bert", "Bert", ("bert.pooler.dense", HIDDEN), ("classifier", 1)),
    "xlm-roberta": _scored(_XLM, "roberta", "XLMRoberta", *_OUT),
    "distilbert": _scored(
        _DISTILBERT, "distilbert", "DistilBert", ("pre_classifier", HIDDEN), ("classifier", 1)
    ),
    "mpnet": _scored(_MPNET, "mpnet", "MPNet", *_OUT),
}
