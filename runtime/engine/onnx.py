"""One ONNX graph under onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from runtime.errors import StartError

_LARGE = 256
"""From this many tokens on, a run gives its scratch memory back: else the arena keeps the
largest it ever needed, at no gain in speed."""

_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_FILLS = {"attention_mask": 1, "token_type_ids": 0}


class OnnxModel:
    """A graph that turns token ids into vectors; used by many threads at once.

    A session has no threads of its own: concurrent runs on one session beat one run on many
    threads by 1.1 to 1.4 times, and an idle engine spins on nothing.

    Attributes:
        per_token: it gives a vector per token; otherwise one per text.

    Raises:
        StartError: the graph does not load, or is none of an embedding model.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session = _open(path)
        self._types = {i.name: self._type_of(i) for i in self._session.get_inputs()}
        self._output, self.per_token = self._choose_output()
        self._shrink = onnxruntime.RunOptions()
        self._shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def run(self, batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Vectors of texts of one length: [text, token, dimension], or [text, dimension]."""
        ids = np.array(batch, dtype=np.int64)
        feeds = {
            name: ids.astype(kind, copy=False)
            if name == "input_ids"
            else np.full(ids.shape, _FILLS[name], dtype=kind)
            for name, kind in self._types.items()
        }
        options = self._shrink if ids.size >= _LARGE else None
        (output,) = self._session.run([self._output], feeds, options)
        return np.asarray(output, dtype=np.float32)

    def _type_of(self, declared: Any) -> Any:
        if declared.type not in _TYPES or declared.name not in {"input_ids", *_FILLS}:
            raise self._unfit(f"it wants an input {declared.name!r} of type {declared.type}")
        return _TYPES[declared.type]

    def _choose_output(self) -> tuple[str, bool]:
        ranks = {output.name: len(output.shape) for output in self._session.get_outputs()}
        if "input_ids" not in self._types:
            raise self._unfit("it has no input 'input_ids'")
        for name in ("last_hidden_state", *ranks):
            if ranks.get(name) == 3:
                return name, True
        for name in ("sentence_embedding", *ranks):
            if ranks.get(name) == 2:
                return name, False
        raise self._unfit("none of its outputs is [text, token, dimension] or [text, dimension]")

    def _unfit(self, why: str) -> StartError:
        return StartError(
            f"This graph is none of an embedding model: {why}",
            where=str(self._path),
            remedy="export the encoder with inputs input_ids, attention_mask and token_type_ids",
        )


def _open(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False
    # Its warnings are about graphs of other people's making, and its errors are raised as well.
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises bare Exception and classes of its own
        raise StartError(
            f"The model cannot be loaded: {error}", where=str(path), remedy="install the model again"
        ) from error
