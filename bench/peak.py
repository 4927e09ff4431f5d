"""How fast this machine multiplies matrices, and how much of that a text gets.

`python -m bench.peak FOLDER ROUNDS` prints it as JSON: one thread, floats of 32 bits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.traffic import ROOT

LENGTHS = (8, 32, 128, 512)
"""Tokens of a text; each runs alone, on one thread."""

_SIZES = (512, 1024, 2048)
_SLICE_S, _RUNS = 0.25, 5  # what each of the things to measure gets in a round, at least
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class Peak(msgspec.Struct, frozen=True):
    """What was measured.

    Attributes:
        numpy, onnxruntime: operations per second of the fastest product of all rounds.
        shares: of the better of the two, of the fastest run of a text, by its length.
    """

    numpy: float
    onnxruntime: float
    shares: dict[int, float]


def measure(folder: Path, rounds: int) -> Peak:
    """Measured in a process of its own: others must not have started threads in it."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.peak", str(folder), str(rounds)],
        cwd=ROOT,
        env=os.environ | _ONE_THREAD,
        check=True,
        stdout=subprocess.PIPE,
    )
    return msgspec.json.decode(done.stdout, type=Peak)


def main() -> None:
    sys.stdout.buffer.write(msgspec.json.encode(here(Path(sys.argv[1]), int(sys.argv[2]))))


def here(folder: Path, rounds: int) -> Peak:
    """Measured in this process."""
    products, texts = {"numpy": _by_numpy(), "onnxruntime": _by_onnxruntime()}, _texts(folder)
    peaks: dict[str, float] = {}
    speeds: dict[int, float] = {}
    for _ in range(rounds):
        for name, works in products.items():
            peaks[name] = max(peaks.get(name, 0.0), *(rate(work) for work in works))
        for length, work in texts.items():
            speeds[length] = max(speeds.get(length, 0.0), rate(work))
    fastest = max(peaks.values())
    return Peak(**peaks, shares={length: speed / fastest for length, speed in speeds.items()})


class Work(NamedTuple):
    """Something to run, and its operations."""

    run: Callable[[], object]
    operations: int


def rate(work: Work) -> float:
    """Operations per second of the fastest run: whatever else the machine does makes others slower."""
    work.run()
    times: list[float] = []
    end = time.perf_counter() + _SLICE_S
    while time.perf_counter() < end or len(times) < _RUNS:
        began = time.perf_counter()
        work.run()
        times.append(time.perf_counter() - began)
    return work.operations / min(times)


def _by_numpy() -> list[Work]:
    import numpy as np

    random = np.random.default_rng(1)
    squares = [random.standard_normal((size, size), np.float32) for size in _SIZES]
    return [
        Work(partial(np.matmul, square, square, np.empty_like(square)), 2 * len(square) ** 3)
        for square in squares
    ]


def _by_onnxruntime() -> list[Work]:
    import numpy as np

    random = np.random.default_rng(1)
    squares = [random.standard_normal((size, size), np.float32) for size in _SIZES]
    return [
        Work(partial(_product(square).run, None, {"x": square}), 2 * len(square) ** 3) for square in squares
    ]


def _product(weights: Any) -> Any:
    """A session that multiplies with these."""
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    shape = list(weights.shape)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _texts(folder: Path) -> dict[int, Work]:
    """A text of each length through the graph that the engine runs with one thread per core."""
    import numpy as np

    from bench.gte import WORDS, flops
    from runtime.engine.models.card import read_card
    from runtime.engine.onnx import PackedModel

    card = read_card(folder)
    assert card is not None
    model = PackedModel(folder / card.graph_of("fp32"))
    random = np.random.default_rng(1)
    ids = {length: random.integers(1000, WORDS, length).tolist() for length in LENGTHS}
    return {length: Work(partial(model.run, [tokens]), flops(length)) for length, tokens in ids.items()}


if __name__ == "__main__":
    main()
