"""A BERT encoder's `model.safetensors` as an ONNX graph.

The graph is the plain one: onnxruntime's own optimisations do more for it on a CPU than
hand-made fusions. Its weights lie in a file beside it, which onnxruntime maps into memory
instead of parsing: a load takes a third of the time.

The encoder is that of "BERT: Pre-training of Deep Bidirectional Transformers" (Devlin et
al., 2018), with the tensor names that Hugging Face transformers gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import msgspec

from runtime.engine.models.card import read_json
from runtime.errors import StartError

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    Array = NDArray[float32]

GRAPH = "model.onnx"
WEIGHTS = "model.onnx.data"

_OPSET = 20  # the first with Gelu
_IR = 9
_PAGE = 4096  # where mapped weights begin


_Count = Annotated[int, msgspec.Meta(gt=0)]


class _Config(msgspec.Struct, frozen=True):
    """What the graph depends on, from `config.json`."""

    hidden_size: _Count
    num_attention_heads: _Count
    num_hidden_layers: _Count
    model_type: str = ""
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    position_embedding_type: str = "absolute"


def convert(source: Path, target: Path, progress: Callable[[int, int], None]) -> None:
    """Write `model.onnx` and its weights into `target`.

    Args:
        source: a folder with `config.json` and `model.safetensors` (32, 16 or bf16 bits).
        progress: told the bytes of weights done, and of all.

    Raises:
        StartError: the files are missing, broken, or of another architecture.
    """
    from safetensors import SafetensorError, safe_open

    config = check_config(source / "config.json")
    path = source / "model.safetensors"
    size = path.stat().st_size
    try:
        with safe_open(path, "numpy") as tensors, open(target / WEIGHTS, "wb") as file:
            weights = _Weights(tensors, path, lambda done: progress(min(done, size), size))
            graph = _Graph(config, weights, file)
            graph.save(graph.encoder(), target / GRAPH)
    except SafetensorError as error:
        raise _broken(path, str(error)) from error


def check_config(path: Path) -> _Config:
    """What a `config.json` says, if it is of an encoder that can be converted.

    Raises:
        StartError: it is missing, broken, or of another architecture.
    """
    try:
        config = msgspec.convert(read_json(path), _Config)
    except msgspec.ValidationError as error:
        raise _broken(path, str(error)) from error
    for what, value, supported in (
        ("model_type", config.model_type, "bert"),
        ("hidden_act", config.hidden_act, "gelu"),
        ("position_embedding_type", config.position_embedding_type, "absolute"),
    ):
        if value != supported:
            raise StartError(
                f"{what} {value!r} cannot be converted; supported is {supported!r}",
                where=str(path),
                remedy="put the model's ONNX export, model.onnx, into the folder: that runs as it is",
            )
    return config


def _broken(path: Path, why: str) -> StartError:
    return StartError(f"The file is broken: {why}", where=str(path), remedy="copy or install the model again")


class _Weights:
    """Tensors by the name that they have in a bare encoder."""

    def __init__(self, tensors: Any, path: Path, done: Callable[[int], None]) -> None:
        self._tensors, self._path, self._progress = tensors, path, done
        names: list[str] = tensors.keys()
        self._keys = {_bare(name): name for name in names}
        self._done = 0

    def __getitem__(self, name: str) -> Array:
        import numpy as np

        if name not in self._keys:
            raise _broken(self._path, f"it has no tensor {name!r}")
        tensor = self._tensors.get_tensor(self._keys[name])
        self._done += tensor.nbytes
        self._progress(self._done)
        return np.asarray(tensor, dtype=np.float32)


def _bare(key: str) -> str:
    # Models with a head keep the encoder under "bert."; the oldest files have other names
    # for the two halves of a LayerNorm.
    key = key.removeprefix("bert.")
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


class _Graph:
    """An ONNX graph under construction; a value is named by the node that makes it."""

    def __init__(self, config: _Config, weights: _Weights, file: IO[bytes]) -> None:
        self._config, self._weights, self._file = config, weights, file
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def encoder(self) -> str:
        """All of it; the name of the output."""
        heads = self._config.num_attention_heads
        self._ints("split", [0, 0, heads, self._config.hidden_size // heads])
        self._ints("join", [0, 0, self._config.hidden_size])
        value, mask = self._embeddings(), self._mask()
        for layer in range(self._config.num_hidden_layers):
            value = self._layer(f"encoder.layer.{layer}", value, mask)
        return value

    def save(self, output: str, path: Path) -> None:
        from onnx import TensorProto, helper, save_model

        shape: list[str | int | None] = ["batch", "sequence"]
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, shape)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ]
        result = "last_hidden_state"
        self._nodes.append(helper.make_node("Identity", [output], [result]))
        size = [*shape, self._config.hidden_size]
        outputs = [helper.make_tensor_value_info(result, TensorProto.FLOAT, size)]
        graph = helper.make_graph(self._nodes, "bert", inputs, outputs, list(self._constants.values()))
        opsets = [helper.make_opsetid("", _OPSET)]
        save_model(helper.make_model(graph, opset_imports=opsets, ir_version=_IR), str(path))

    # the parts of the encoder

    def _embeddings(self) -> str:
        words = self._op("Gather", self._weight("embeddings.word_embeddings.weight"), "input_ids")
        types = self._op("Gather", self._weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
        length = self._op("Shape", "input_ids", start=1, end=2)
        places = self._weight("embeddings.position_embeddings.weight")
        zero = self._ints("zero", [0])
        positions = self._op("Slice", places, zero, length, zero)
        total = self._op("Add", self._op("Add", words, types), positions)
        return self._norm("embeddings.LayerNorm", total)

    def _mask(self) -> str:
        """Added to attention scores: 0 where there is text, hugely negative where there is none."""
        import numpy as np

        floats = self._op("Cast", "attention_mask", to=1)
        absent = self._op("Sub", self._inline("one", np.array(1, np.float32)), floats)
        lowest = self._inline("lowest", np.array(np.finfo(np.float32).min))
        scores = self._op("Mul", absent, lowest)
        return self._op("Unsqueeze", scores, self._ints("middle", [1, 2]))

    def _layer(self, name: str, value: str, mask: str) -> str:
        attention = f"{name}.attention"
        mixed = self._attention(f"{attention}.self", value, mask)
        mixed = self._linear(f"{attention}.output.dense", mixed)
        value = self._norm(f"{attention}.output.LayerNorm", self._op("Add", mixed, value))
        inner = self._op("Gelu", self._linear(f"{name}.intermediate.dense", value))
        outer = self._linear(f"{name}.output.dense", inner)
        return self._norm(f"{name}.output.LayerNorm", self._op("Add", outer, value))

    def _attention(self, name: str, value: str, mask: str) -> str:
        width = self._config.hidden_size // self._config.num_attention_heads
        # Scaling the query's weights once saves scaling every score.
        query = self._heads(self._linear(f"{name}.query", value, 1 / sqrt(width)), [0, 2, 1, 3])
        key = self._heads(self._linear(f"{name}.key", value), [0, 2, 3, 1])
        content = self._heads(self._linear(f"{name}.value", value), [0, 2, 1, 3])
        scores = self._op("Add", self._op("MatMul", query, key), mask)
        shares = self._op("Softmax", scores, axis=-1)
        mixed = self._op("Transpose", self._op("MatMul", shares, content), perm=[0, 2, 1, 3])
        return self._op("Reshape", mixed, "join")

    def _heads(self, value: str, order: list[int]) -> str:
        return self._op("Transpose", self._op("Reshape", value, "split"), perm=order)

    def _linear(self, name: str, value: str, scale: float = 1.0) -> str:
        weight = self._store(f"{name}.weight", self._weights[f"{name}.weight"].T * scale)
        bias = self._store(f"{name}.bias", self._weights[f"{name}.bias"] * scale)
        return self._op("Add", self._op("MatMul", value, weight), bias)

    def _norm(self, name: str, value: str) -> str:
        scale, shift = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self._op(
            "LayerNormalization", value, scale, shift, axis=-1, epsilon=self._config.layer_norm_eps
        )

    # what they are made of

    def _op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _weight(self, name: str) -> str:
        return self._store(name, self._weights[name])

    def _store(self, name: str, array: Array) -> str:
        """A constant in the file of weights."""
        import numpy as np
        from onnx import TensorProto

        self._file.seek(-self._file.tell() % _PAGE, 1)
        data = np.ascontiguousarray(array, dtype="<f4")
        place = {"location": WEIGHTS, "offset": self._file.tell(), "length": data.nbytes}
        self._file.write(data.data)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=data.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._constants[name] = tensor
        return name

    def _inline(self, name: str, array: Any) -> str:
        from onnx import numpy_helper

        self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def _ints(self, name: str, values: Sequence[int]) -> str:
        import numpy as np

        return self._inline(name, np.array(values, dtype=np.int64))
