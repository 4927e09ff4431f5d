"""`ai.InferenceSession`: a graph of one's own, arrays in and arrays out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from runtime import frames
from runtime.ai import host as hosts
from runtime.ai.timeout import Clock, Timeout, timeout_of
from runtime.errors import InvalidInput
from runtime.tensors import BFLOAT16, BYTES, STRING, bfloat16, pack

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TensorInfo(msgspec.Struct, frozen=True):
    """What a graph says of one of its inputs or outputs.

    Attributes:
        dtype: numpy's name of it, such as "float32"; "string"; or ONNX's own for what is no array.
        shape: None or a name: that dimension may be of any size.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class InferenceSession:
    """An ONNX graph of the project, run by the engine that all functions share.

    It is loaded once for all of them, and again when its file has changed. Runs take turns
    with everything else that the engine computes, each on one core, and none counts as the
    function's own time. Making a session does no I/O. It needs numpy.

    Args:
        path: of a file whose name ends with `.onnx` or `.ort`: relative to the folder of the
            function's entry file, or else to the project; or absolute, inside the project.

    Raises:
        InvalidInput: the path is none of a graph.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise InvalidInput(f"path is {type(path).__name__}: give a graph's path, such as 'model.onnx'")
        self.path = os.fspath(path)
        if not self.path.endswith((".onnx", ".ort")):
            raise InvalidInput(f"{self.path!r} is no graph's path: its name ends with neither .onnx nor .ort")
        self._opened: frames.Opened | None = None

    @property
    def _host(self) -> hosts.Host:
        return hosts.current()

    @property
    def _paths(self) -> list[str]:
        return self._host.graph(self.path)

    def __repr__(self) -> str:
        return f"InferenceSession({self.path!r})"

    @property
    def inputs(self) -> list[TensorInfo]:
        """What it takes. Known after `ready`.

        Raises:
            InvalidInput: nobody has waited for `ready` yet.
        """
        return [_info(declared) for declared in self._known.inputs]

    @property
    def outputs(self) -> list[TensorInfo]:
        """What it gives. Known after `ready`; raises as `inputs` does."""
        return [_info(declared) for declared in self._known.outputs]

    @property
    def _known(self) -> frames.Opened:
        if self._opened is None:
            raise InvalidInput(f"{self.path} has not been read yet: `await session.ready()` first")
        return self._opened

    async def ready(self, *, timeout: Timeout | float | None = 60) -> None:
        """Wait until the graph is loaded.

        Raises:
            ModelNotFound: there is no such file inside the project.
            AIError: as `run` does.
        """
        clock = Clock(timeout_of(timeout), self.path)
        self._opened = await clock.bounded(self._host.engine.open(self._paths))

    async def run(
        self,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] | None = None,
        timeout: Timeout | float | None = 60,
    ) -> dict[str, NDArray[Any]]:
        """Run the graph.

        Args:
            inputs: arrays by name. What is no array yet (a number, a list) becomes one of the
                type that the graph declares.
            outputs: names of those that are wanted; None: all.
            timeout: seconds for the whole call; only `total` of a `Timeout` counts.

        Raises:
            InvalidInput: a name, a type or a shape is not what the graph takes, or it failed on them.
            InputTooLarge: the arrays have more than 256 MB together.
            InferenceTimeout: a limit of `timeout` passed; the run is ended.
            EngineUnavailable: the engine is down and stayed so, or has too much to do.
            ModelNotFound: there is no such file inside the project.
        """
        clock = Clock(timeout_of(timeout), self.path)
        if not isinstance(inputs, Mapping):
            raise InvalidInput(f"inputs is {type(inputs).__name__}: give arrays by name, as {{'x': array}}")
        _check_names(inputs, "inputs")
        return await clock.bounded(self._run(inputs, _names(outputs)))

    async def _run(self, inputs: Mapping[str, Any], outputs: list[str]) -> dict[str, NDArray[Any]]:
        import numpy as np

        engine, paths = self._host.engine, self._paths
        if self._opened is None and not all(isinstance(value, np.ndarray) for value in inputs.values()):
            self._opened = await engine.open(paths)
        return await engine.run(paths, pack(self._arrays(inputs)), outputs)

    def _arrays(self, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        import numpy as np

        declared = {known.name: known.dtype for known in self._opened.inputs} if self._opened else {}
        return {
            name: value if isinstance(value, np.ndarray) else _array(name, value, declared.get(name, ""))
            for name, value in inputs.items()
        }


_KINDS = {"f": "numbers with a fraction", "c": "complex numbers", "U": "strings", "S": "bytes"}


def _array(name: str, value: object, dtype: str) -> NDArray[Any]:
    import numpy as np

    if dtype == STRING:
        return np.array(value, dtype=object)
    kind = bfloat16(name) if dtype == BFLOAT16 else dtype
    try:
        array = np.asarray(value)
        if dtype not in BYTES:
            return array
        # A list of floats is not cut to whole numbers; whole ones become whatever is declared.
        if array.dtype.kind in "iu" or not array.size:
            return np.array(value, kind)
        if not np.can_cast(array.dtype, "float32" if dtype == BFLOAT16 else kind, "same_kind"):
            raise TypeError(f"it has {_KINDS.get(array.dtype.kind, 'something else')}")
        return array.astype(kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{name} cannot become an array of {dtype or 'numbers'}: {error}") from None


def _names(outputs: Sequence[str] | None) -> list[str]:
    if outputs is None:
        return []
    if isinstance(outputs, str) or not isinstance(outputs, Iterable):
        raise InvalidInput(f"outputs is {type(outputs).__name__}: give a list of names")
    names = list(outputs)
    _check_names(names, "outputs")
    return names


def _check_names(names: Iterable[object], where: str) -> None:
    for name in names:
        if not isinstance(name, str):
            raise InvalidInput(f"{where} has a name that is {type(name).__name__}: give strings")


def _info(declared: frames.Declared) -> TensorInfo:
    return TensorInfo(declared.name, declared.dtype, tuple(declared.shape))
