"""ONNX graphs under onnxruntime."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from runtime.engine.packing import ids_of, packed_feeds, types_of
from runtime.engine.providers import check_started, libraries
from runtime.engine.scheduler import Text
from runtime.engine.vectors import Rows
from runtime.errors import StartError

log = logging.getLogger("runtime.engine")

_LARGE = 513
"""From this many tokens on, a run gives its scratch memory back: else the arena keeps the
largest that it ever needed. With texts up to 2048 tokens and four layers of gte-small's shape,
the process then stays at 190 MB instead of 915, for 23 % more of the processor's time. Below
that it is not worth its time: at up to 512 tokens it saves 45 MB of 260, for 5 %."""

_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


class Graph(Protocol):
    """A graph that turns texts into rows; used by many threads at once.

    Attributes:
        packs: texts of different lengths may run together.
        per_token: it gives a row per token; otherwise one per text.
    """

    packs: bool
    per_token: bool

    def run(self, texts: Sequence[Text]) -> list[Rows]:
        """The rows of each text."""
        ...


class Runner(Protocol):
    """A graph that was opened, by onnxruntime or another; used by many threads at once.

    Attributes:
        inputs: each has a `name` and a `type` ("tensor(int64)").
        outputs: each has a `name` and a `shape`.
    """

    inputs: Sequence[Any]
    outputs: Sequence[Any]

    def run(self, output: str, feeds: dict[str, NDArray[Any]], tokens: int) -> Rows:
        """One output.

        Args:
            feeds: arrays by name; those that the graph does not take are left out.
            tokens: that all of them stand for.
        """
        ...


Opener = Callable[[Path, int], Runner]
"""Opens the graph at a path, for so many threads."""


class OnnxModel:
    """A graph that takes a rectangle of tokens, as other programs make them, too.

    Args:
        threads: of its session. One: it has none of its own, so that concurrent runs on one
            session beat one run on many threads by 1.1 to 1.4 times, and an idle engine spins
            on nothing.
        opener: what runs the graph; None: onnxruntime on the processor.

    Raises:
        StartError: the graph does not load, or is none of an embedding model.
    """

    packs = False

    def __init__(self, path: Path, threads: int = 1, opener: Opener | None = None) -> None:
        self._path = path
        self._session = (opener or Session)(path, threads)
        self._types = {i.name: self._type_of(i) for i in self._session.inputs}
        self._output, self.per_token = self._choose_output()

    def run(self, texts: Sequence[Text]) -> list[Rows]:
        """The rows of each text; they must be of one length."""
        ids = np.array([ids_of(text) for text in texts], dtype=np.int64)
        made = {"input_ids": lambda: ids, "attention_mask": lambda: np.ones_like(ids)}
        made["token_type_ids"] = lambda: np.array([types_of(text) for text in texts])
        feeds = {name: made[name]().astype(kind, copy=False) for name, kind in self._types.items()}
        output = self._session.run(self._output, feeds, ids.size)
        return [np.atleast_2d(rows) for rows in output]

    def _type_of(self, declared: Any) -> Any:
        if declared.type not in _TYPES or declared.name not in _INPUTS:
            raise self._unfit(f"it wants an input {declared.name!r} of type {declared.type}")
        return _TYPES[declared.type]

    def _choose_output(self) -> tuple[str, bool]:
        ranks = {output.name: len(output.shape) for output in self._session.outputs}
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


class PackedModel:
    """A `packed.onnx` of ours: it works on nothing but the tokens of its texts.

    Raises:
        StartError: the graph does not load.
    """

    packs = True

    def __init__(self, path: Path, threads: int = 1, opener: Opener | None = None) -> None:
        self._session = (opener or Session)(path, threads)
        (output,) = self._session.outputs
        self._output, self.per_token = output.name, output.name == "last_hidden_state"

    def run(self, texts: Sequence[Text]) -> list[Rows]:
        """The rows of each text, of whatever lengths."""
        lengths = np.array([len(text) for text in texts])
        output = self._session.run(self._output, packed_feeds(texts, lengths), int(lengths.sum()))
        ends = lengths.cumsum()[:-1] if self.per_token else len(texts)
        return np.split(output, ends)


class Session:
    """A session of onnxruntime.

    Args:
        providers: of execution, by our names, the first one preferred; the processor is always
            the last.

    Raises:
        StartError: the graph, or the weights beside it, do not load, or a provider does not start.
    """

    def __init__(self, path: Path, threads: int, providers: Sequence[str] = ()) -> None:
        self._session = _open(path, threads, libraries(providers))
        check_started(providers, self._session.get_providers())
        self.inputs, self.outputs = self._session.get_inputs(), self._session.get_outputs()
        self._names = [declared.name for declared in self.inputs]
        self._shrink = onnxruntime.RunOptions()
        self._shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def run(self, output: str, feeds: dict[str, NDArray[Any]], tokens: int) -> Rows:
        """One output."""
        options = self._shrink if tokens >= _LARGE else None
        (result,) = self._session.run([output], {name: feeds[name] for name in self._names}, options)
        return np.asarray(result, dtype=np.float32)


class Later:
    """A graph that is opened on a thread when it is first asked for.

    Args:
        kind: of graph.
        threads: of its session.

    Attributes:
        graph: it; None while it is not there.
    """

    def __init__(self, kind: Callable[[Path, int], Graph], path: Path, threads: int) -> None:
        self._kind, self._path, self._threads = kind, path, threads
        self._asked = threading.Lock()  # it is opened, or found impossible, once
        self.graph: Graph | None = None

    def get(self) -> Graph | None:
        """The graph, if it is there."""
        if self.graph is None and self._asked.acquire(blocking=False):
            try:
                threading.Thread(target=self._open, name="opening", daemon=True).start()
            except RuntimeError:  # the system gives no thread now
                self._asked.release()
        return self.graph

    def _open(self) -> None:
        try:
            self.graph = self._kind(self._path, self._threads)
        except StartError as error:
            log.warning("texts alone do not get all cores: %s", error)


def _open(path: Path, threads: int, providers: Sequence[str]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False
    # Threads wait for one another busily during a run, and not beyond its end.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Its warnings are about graphs of other people's making, and its errors are raised as well.
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the library raises bare Exception and classes of its own
        raise StartError(
            f"The model cannot be loaded{_weights_of(path)}: {error}",
            where=str(path),
            remedy="install the model again",
        ) from error


def _weights_of(path: Path) -> str:
    """Names the files of weights that a graph refers to; nothing if it has none, or cannot be read."""
    import onnx

    try:
        tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    except Exception:  # the error that is being told says so
        return ""
    entries = (entry for tensor in tensors for entry in tensor.external_data if entry.key == "location")
    names = " and ".join(sorted({entry.value for entry in entries}))
    return f" with its weights, {names}" if names else ""
