"""`FakeInferenceSession`, and the graphs of a function that is tested."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runtime.ai import host as hosts
from runtime.ai.inference import InferenceSession
from runtime.errors import InvalidInput
from runtime.frames import Opened
from runtime.tensors import Cargo, Parcel, pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.engine.raw import RawGraph

Arrays = dict[str, "NDArray[Any]"]


class FakeInferenceSession(InferenceSession):
    """`ai.InferenceSession` with a graph that is not there.

        FakeInferenceSession({"label": np.array([1])})            these arrays, at every run
        FakeInferenceSession(lambda inputs: {"y": inputs["x"] * 2})   what the test computes
        FakeInferenceSession(ai.InferenceTimeout("…"))            fails at once

    What is no array yet becomes one. It declares neither inputs nor outputs.

    Args:
        answer: what a run gives.
        path: its name; in `FunctionClient(sessions={"model.onnx": …})` the key counts.

    Attributes:
        calls: the inputs of each run so far, also of sessions that a tested function made.
    """

    def __init__(
        self,
        answer: Mapping[str, Any] | Callable[[Arrays], Mapping[str, Any]] | BaseException,
        path: str = "model.onnx",
    ) -> None:
        from runtime.testing.session import FakeHost

        super().__init__(path)
        self._answer = answer
        self.calls: list[Arrays] = []
        self._own_host = FakeHost({path: self}, closed=True)

    @property
    def _host(self) -> hosts.Host:
        return self._own_host

    def answer(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """What it gives for these arrays."""
        import numpy as np

        self.calls.append(inputs)
        if isinstance(self._answer, BaseException):
            raise self._answer
        given = self._answer(inputs) if callable(self._answer) else self._answer
        if unknown := [name for name in outputs if name not in given]:
            raise InvalidInput(f"The graph has no output {unknown[0]!r}: it has {', '.join(given)}")
        return {name: np.asarray(given[name]) for name in outputs or given}


class OwnGraphs:
    """Graphs of the project, run in the test's process."""

    def __init__(self) -> None:
        self._loaded: dict[str, RawGraph] = {}

    def open(self, paths: Sequence[str], root: str) -> Opened:
        """What a graph declares.

        Raises:
            InvalidInput: onnxruntime is not installed.
            ModelNotFound: there is no such file in `root`.
        """
        graph = self._graph(paths, root)
        return Opened(0, graph.inputs, graph.outputs)

    async def run(self, paths: Sequence[str], root: str, inputs: Cargo, outputs: Sequence[str]) -> Arrays:
        """The outputs; raises as `open` does, and as the engine would."""
        graph = self._graph(paths, root)
        wanted = graph.check(inputs[0], outputs)
        return arrived(await asyncio.to_thread(graph.run, parcel(inputs), wanted, None))

    def _graph(self, paths: Sequence[str], root: str) -> RawGraph:
        try:
            from runtime.engine.raw import RawGraph, find

            path = find(paths, root)
            if str(path) not in self._loaded:
                self._loaded[str(path)] = RawGraph(path)
        except ImportError:
            raise InvalidInput(
                "A test runs the graph itself with onnxruntime, which is not installed: install the extra "
                f"`engine`, or give the test sessions={{{paths[0]!r}: FakeInferenceSession(…)}}"
            ) from None
        return self._loaded[str(path)]


def parcel(cargo: Cargo) -> Parcel:
    """Arrays as if they had come from another process."""
    received = Parcel(cargo[0])
    for piece in pieces(cargo):
        received.add(piece)
    return received


def arrived(cargo: Cargo) -> Arrays:
    """The arrays of `parcel`."""
    return parcel(cargo).arrays()
