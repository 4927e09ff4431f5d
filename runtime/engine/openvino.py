"""ONNX graphs under OpenVINO, whose products of 16-bit numbers are about twice as fast.

It is optional: `pip install 'functions-runtime[openvino]'`. A processor that multiplies such
numbers by itself (AVX512-BF16 or AMX, as in "Intel 64 and IA-32 Architectures Software
Developer's Manual", volume 1) has to be there; with any other it would be slower.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.engine.models.graphs.shapes import BIAS, FAR, PLACES
from runtime.engine.packing import ABSENT
from runtime.engine.providers import check_bfloat16
from runtime.engine.vectors import Rows
from runtime.errors import StartError

_PRECISION = "bf16"
_KEPT = 1024  # kernels, each for a shape: more of them take memory without end
# A shape that was not seen before costs milliseconds: sizes are rounded up to one of these steps.
_STEPS = ((64, 8), (256, 16), (1 << 40, 64))

_PER_TOKEN = "last_hidden_state"
_TYPES = {"i64": "tensor(int64)", "i32": "tensor(int32)", "f32": "tensor(float)"}


class Declared(NamedTuple):
    """An input or an output, as onnxruntime would describe it."""

    name: str
    type: str
    shape: list[str]


class Bfloat16Session:
    """A graph that computes in bfloat16; takes and gives float32, as `onnx.Session` does.

    Args:
        threads: that a run uses.
        streams: runs at a time that have a thread of their own, if `threads` is 1.

    Raises:
        StartError: this machine gains nothing, or the graph does not load.
    """

    def __init__(self, path: Path, threads: int = 1, streams: int = 1) -> None:
        check_bfloat16()
        self._compiled = _compile(path, threads, streams if threads == 1 else 1)
        self.inputs: Sequence[Any] = [_declared(port) for port in self._compiled.inputs]
        self.outputs: Sequence[Any] = [_declared(port) for port in self._compiled.outputs]
        self._names = {declared.name for declared in self.inputs}
        self._idle: deque[Any] = deque()  # requests that no thread uses now

    def run(self, output: str, feeds: dict[str, NDArray[Any]], tokens: int) -> Rows:
        """One output."""
        packed = PLACES in feeds
        there = len(feeds["starts" if packed and output != _PER_TOKEN else "input_ids"])
        feeds = _rounded(feeds) if packed else feeds
        request = self._request()
        request.infer({name: feed for name, feed in feeds.items() if name in self._names}, share_inputs=True)
        rows = np.array(request.get_tensor(output).data[:there], dtype=np.float32)
        self._idle.append(request)
        return rows

    def _request(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._compiled.create_infer_request()


def _compile(path: Path, threads: int, streams: int) -> Any:
    library = _library()
    core = library.Core()
    try:
        model = core.read_model(path)
        _settle(library, model)
        return core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _PRECISION,
                "INFERENCE_NUM_THREADS": max(threads, streams),
                "NUM_STREAMS": streams,
                "ENABLE_CPU_PINNING": False,
                "CPU_RUNTIME_CACHE_CAPACITY": _KEPT,
            },
        )
    except Exception as error:  # the library raises classes of its own
        raise StartError(
            f"The model cannot be loaded by OpenVINO: {error}",
            where=str(path),
            remedy='install the model again, or set precision = "fp32"',
        ) from error


def _settle(library: Any, model: Any) -> None:
    """Have every choice of the graph made in favour of its general branch.

    A branch gets wrong numbers: what it reads may have been overwritten meanwhile (2026.4).
    """
    yes = library.opset13.constant(np.array(True)).output(0)
    for node in model.get_ops():
        if node.get_type_name() == "If":
            node.input(0).replace_source_output(yes)
    for parameter in model.get_parameters():
        if not parameter.output(0).get_target_inputs():
            model.remove_parameter(parameter)


def _library() -> Any:
    # While this one can be imported, importing the other sends a message to its makers.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _declared(port: Any) -> Declared:
    kind = port.get_element_type().get_type_name()
    # An output may have an inner name, too; its node has the one of the file.
    name = port.node.get_friendly_name().removesuffix("/sink_port_0")
    return Declared(name, _TYPES.get(kind, kind), [str(size) for size in port.get_partial_shape()])


def _rounded(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The feeds of a packed graph with tokens, places and texts that stand for nothing, so that
    shapes come again."""
    made = dict(feeds)
    (near, wide), (_, wide_far) = (_round_rectangle(made, end) for end in ("", FAR))
    first, was_wide, was_far = feeds[PLACES].size, feeds[PLACES].shape[1], feeds[PLACES + FAR].shape[1]
    far = feeds["before"] >= first
    made["width"] = np.where(far, wide_far, wide)
    made["before"] = np.where(
        far,
        near * wide + (feeds["before"] - first) // was_far * wide_far,
        feeds["before"] // was_wide * wide,
    )
    for name in made.keys() & {"input_ids", "position_ids", "token_type_ids", "before", "width"}:
        made[name] = np.pad(made[name], (0, _up(len(made[name])) - len(made[name])))
    made["starts"] = np.pad(made["starts"], (0, _power(len(made["starts"])) - len(made["starts"])))
    return made


def _round_rectangle(made: dict[str, NDArray[Any]], end: str) -> tuple[int, int]:
    """Texts and places of a rectangle that was made larger."""
    texts, longest = made[PLACES + end].shape
    more, wider = _power(texts) - texts, _up(longest) - longest
    # A place without a token takes any token of its own text, and counts for nothing.
    places = np.pad(made[PLACES + end], ((0, 0), (0, wider)), "edge")
    made[PLACES + end] = np.pad(places, ((0, more), (0, 0)))
    bias = np.pad(made[BIAS + end], ((0, 0), (0, 0), (0, 0), (0, wider)), constant_values=ABSENT)
    made[BIAS + end] = np.pad(bias, ((0, more), (0, 0), (0, 0), (0, 0)))
    return texts + more, longest + wider


def _power(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()


def _up(size: int) -> int:
    step = next(step for limit, step in _STEPS if size <= limit)
    return -(-size // step) * step
