"""What the encoders that we can convert have in common, and what each calls it.

All are the encoder of "BERT: Pre-training of Deep Bidirectional Transformers" (Devlin et al.,
2018) with a few changes; tensors and configuration keys have the names that Hugging Face
transformers gives them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, NamedTuple

Places = Literal["learned", "relative", "rotary"]


class Layer(NamedTuple):
    """Names of the parts of a layer, below the layer's own.

    Attributes:
        qkv: query, key and value; one name where they are one tensor already.
        mixed: what attention's result goes through.
        inner: into the wider middle; of two names the second makes the gate of the first.
        outer: and back.
    """

    qkv: tuple[str, ...]
    mixed: str
    mixed_norm: str
    inner: tuple[str, ...]
    outer: str
    outer_norm: str


class Head(NamedTuple):
    """A classifier on the first token: `dense`, an activation, `out`."""

    dense: str
    activation: str
    out: str


class Keys(NamedTuple):
    """Names in `config.json`; empty: it does not say, and `Family.epsilon` holds."""

    hidden: str = "hidden_size"
    heads: str = "num_attention_heads"
    layers: str = "num_hidden_layers"
    activation: str = "hidden_act"
    epsilon: str = "layer_norm_eps"


class Family(NamedTuple):
    """An architecture.

    Attributes:
        prefixes: of the encoder's tensors in a model with a head.
        layer: a layer's name, with its number to be filled in.
        biased: its products have something added to them.
        places: how a token's position is told.
        activations: by the name in `config.json`, what ONNX calls their approximation.
        fixed: what `config.json` must say where it says anything.
    """

    prefixes: tuple[str, ...]
    layer: str
    parts: Layer
    head: Head | None
    norm: str = "embeddings.LayerNorm"
    keys: Keys = Keys()
    epsilon: float = 1e-12
    biased: bool = True
    places: Places = "learned"
    activations: MappingProxyType[str, str] = MappingProxyType(
        {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
    )
    fixed: MappingProxyType[str, object] = MappingProxyType(
        {"position_embedding_type": "absolute", "is_decoder": False}
    )


_BERT = Family(
    prefixes=("bert.",),
    layer="encoder.layer.{}",
    parts=Layer(
        qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
        mixed="attention.output.dense",
        mixed_norm="attention.output.LayerNorm",
        inner=("intermediate.dense",),
        outer="output.dense",
        outer_norm="output.LayerNorm",
    ),
    head=Head("pooler.dense", "Tanh", "classifier"),
)

_ROBERTA = _BERT._replace(
    prefixes=("roberta.",), head=Head("classifier.dense", "Tanh", "classifier.out_proj")
)

FAMILIES = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": Family(
        prefixes=("distilbert.",),
        layer="transformer.layer.{}",
        parts=Layer(
            qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
            mixed="attention.out_lin",
            mixed_norm="sa_layer_norm",
            inner=("ffn.lin1",),
            outer="ffn.lin2",
            outer_norm="output_layer_norm",
        ),
        head=Head("pre_classifier", "Relu", "classifier"),
        keys=Keys("dim", "n_heads", "n_layers", "activation", ""),
    ),
    "mpnet": _BERT._replace(
        prefixes=("mpnet.",),
        parts=_BERT.parts._replace(
            qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
            mixed="attention.attn.o",
            mixed_norm="attention.LayerNorm",
        ),
        head=_ROBERTA.head,
        places="relative",
        fixed=MappingProxyType(_BERT.fixed | {"relative_attention_num_buckets": 32}),
    ),
    "nomic_bert": Family(
        prefixes=("bert.", "nomic_bert."),
        layer="encoder.layers.{}",
        parts=Layer(
            qkv=("attn.Wqkv",),
            mixed="attn.out_proj",
            mixed_norm="norm1",
            inner=("mlp.fc11", "mlp.fc12"),
            outer="mlp.fc2",
            outer_norm="norm2",
        ),
        head=None,
        norm="emb_ln",
        keys=Keys("n_embd", "n_head", "n_layer", "activation_function", "layer_norm_epsilon"),
        biased=False,
        places="rotary",
        activations=MappingProxyType({"swiglu": "gated", "silu": "gated"}),
        fixed=MappingProxyType(
            {
                "causal": False,
                "prenorm": False,
                "parallel_block": False,
                "qkv_proj_bias": False,
                "mlp_fc1_bias": False,
                "mlp_fc2_bias": False,
                "rotary_emb_fraction": 1.0,
                "rotary_emb_interleaved": False,
                "rotary_emb_scale_base": None,
                "use_rms_norm": False,
            }
        ),
    ),
}
"""By the `model_type` of `config.json`."""
