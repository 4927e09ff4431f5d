"""Graphs as their authors made them: arrays in, arrays out."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.engine.providers import check_started, libraries
from runtime.engine.scheduler import Form, Scheduler, Text
from runtime.errors import (
    EngineUnavailable,
    FunctionsError,
    InferenceTimeout,
    InputTooLarge,
    InvalidInput,
    ModelNotFound,
    StartError,
)
from runtime.frames import Declared, Tensor
from runtime.tensors import BFLOAT16, BYTES, STRING, Cargo, Parcel, pack, unpacked

if TYPE_CHECKING:
    from runtime.engine.registry import Registry
    from runtime.engine.scheduler import Rows

SUFFIXES = (".onnx", ".ort")

MOST = 256 << 20
"""Bytes of the arrays that one call sends, and of those that it gets."""

MOST_TOGETHER = 1 << 30
"""Bytes of the arrays of all calls in flight; those of one connection may have half of them."""

MOST_SECONDS = 300.0
"""How long a run may wait and run, whatever its caller's patience."""

_STRING = 80  # bytes that a string takes beside its own, in Python and in the library
_WEIGHT = range(600)  # counts as a text of so many tokens: too long to be given all cores
_FORM = Form(normalize=False)
_BFLOAT16_ONNX = 16  # TensorProto.BFLOAT16


def find(paths: Sequence[str], root: str) -> Path:
    """The file that is meant: the first that exists.

    Args:
        root: real path of the folder it must lie in: a function chooses the path, and the
            engine may read more than the function may. Empty: anywhere.

    Raises:
        ModelNotFound: there is none, or it may not be read.
    """
    for path in paths:
        real = os.path.realpath(path)
        inside = os.path.relpath(real, root) if root else os.path.basename(real)
        hidden = inside.startswith(".") or f"{os.sep}." in inside
        # Looked at last: of what lies elsewhere nobody shall learn whether it exists.
        if not hidden and real.endswith(SUFFIXES) and os.path.isfile(real):
            return Path(real)
    where = f" in the project, {root}" if root else ""
    raise ModelNotFound(
        f"There is no graph {' or '.join(paths)}{where} (names end with {' or '.join(SUFFIXES)}; "
        "what is hidden by a dot is not read)"
    )


def bytes_of(path: Path) -> int:
    """Of a graph, and of the weights beside it that go by its name."""
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.name.startswith(path.name))


class RawGraph:
    """A loaded graph, run by many threads at once, each run on one.

    Args:
        providers: what onnxruntime shall run it on, as `onnx.Session` has it.

    Raises:
        StartError: it does not load, or a provider does not start.
    """

    def __init__(self, path: Path, providers: Sequence[str] = ()) -> None:
        self._session = _open(path, providers)
        self.inputs = [_declared(argument) for argument in self._session.get_inputs()]
        self.outputs = [_declared(argument) for argument in self._session.get_outputs()]
        optional = [_declared(argument) for argument in self._session.get_overridable_initializers()]
        self._takes = {declared.name: declared for declared in (*self.inputs, *optional)}

    def check(self, tensors: Sequence[Tensor], outputs: Sequence[str]) -> list[Declared]:
        """Whether it can be run on these; the outputs that it will give.

        Raises:
            InvalidInput: a name, a type or a shape is not what it wants.
        """
        given = {tensor.name for tensor in tensors}
        if missing := [declared.name for declared in self.inputs if declared.name not in given]:
            raise InvalidInput(f"The graph wants an input {missing[0]!r}, which is missing")
        for tensor in tensors:
            _check(tensor, self._takes)
        known = {declared.name: declared for declared in self.outputs}
        if unknown := [name for name in outputs if name not in known]:
            raise InvalidInput(f"The graph has no output {unknown[0]!r}: it has {', '.join(known)}")
        wanted = [known[name] for name in outputs] or self.outputs
        for declared in wanted:
            if declared.dtype not in BYTES and declared.dtype != STRING:
                raise InvalidInput(_no_array(declared, self.outputs))
        return wanted

    def run(self, parcel: Parcel, outputs: Sequence[Declared], options: Any) -> Cargo:
        """The outputs, on this thread."""
        types = [tensor.dtype for tensor, _ in parcel.each()] + [output.dtype for output in outputs]
        if BFLOAT16 in types:
            return self._run_bits(parcel, outputs, options)
        names = [output.name for output in outputs]
        arrays = self._session.run(names, parcel.arrays(), options)
        return pack(dict(zip(names, arrays, strict=True)))

    def _run_bits(self, parcel: Parcel, outputs: Sequence[Declared], options: Any) -> Cargo:
        """With values of the library's own, for a type that numpy does not have; they take no strings."""
        arrays = [(tensor, _array(tensor, data)) for tensor, data in parcel.each()]  # they must stay alive
        feeds = {tensor.name: _value(tensor, array) for tensor, array in arrays}
        values = self._session.run_with_ort_values([output.name for output in outputs], feeds, options)
        return _cargo(outputs, values)


class _Run:
    """One run, as a model that the scheduler can give a thread."""

    packs = wide = False

    def __init__(self, graph: RawGraph, parcel: Parcel, outputs: Sequence[Declared]) -> None:
        import onnxruntime

        self._graph, self._parcel, self._outputs = graph, parcel, outputs
        self._options = onnxruntime.RunOptions()
        self.results: Cargo = ([], [])

    def infer(self, batch: Sequence[Text], forms: Sequence[Form], *, alone: bool = False) -> Sequence[Rows]:
        """Run; the results lie in `results`."""
        import numpy as np

        try:
            self.results = self._graph.run(self._parcel, self._outputs, self._options)
        except FunctionsError:
            raise
        except Exception as error:  # the library raises bare Exception and classes of its own
            raise InvalidInput(f"The graph does not run on these inputs: {error}") from error
        return [np.empty((0, 0), np.float32)]

    def stop(self) -> None:
        """End at the next node, if it runs."""
        self._options.terminate = True


class Room:
    """What the arrays of one call take."""

    def __init__(self, graphs: Graphs, owner: Hashable) -> None:
        self._graphs, self._owner, self._size = graphs, owner, 0

    def add(self, tensors: Sequence[Tensor], what: str) -> None:
        """Arrays more.

        Raises:
            InputTooLarge: they are over `MOST`.
            EngineUnavailable: there is no room for them now.
        """
        size, held = sum(map(_bytes, tensors)), self._graphs.held
        if size > MOST:
            raise InputTooLarge(f"The {what} take {size} bytes; the limit is {MOST}: run the graph in parts")
        if held.total() + size > MOST_TOGETHER or held[self._owner] + size > MOST_TOGETHER // 2:
            raise EngineUnavailable("The inference engine is overloaded with arrays; try again shortly")
        held[self._owner] += size
        self._size += size

    def leave(self) -> None:
        """Nothing of them is needed any more."""
        held = self._graphs.held
        held[self._owner] -= self._size
        if not held[self._owner]:
            del held[self._owner]


class Graphs:
    """Runs graphs on the threads that all inference runs on.

    Attributes:
        held: bytes of the arrays of calls in flight, by the calls' owners.
    """

    def __init__(self, models: Registry, scheduler: Scheduler) -> None:
        self._models, self._scheduler = models, scheduler
        self._closed = False
        self.held: Counter[Hashable] = Counter()

    def using(self, paths: Sequence[str]) -> AbstractAsyncContextManager[RawGraph]:
        """The graph, loaded on first use, and kept in memory meanwhile.

        Raises:
            ModelNotFound: there is no such file, or it may not be read.
            StartError: it does not load.
        """
        return self._models.use_graph(paths)

    @contextmanager
    def room(self, tensors: Sequence[Tensor], owner: Hashable = None) -> Iterator[Room]:
        """Hold this while the call is in flight; raises as `Room.add` does.

        Args:
            owner: of the call: its connection.
        """
        if self._closed:
            raise EngineUnavailable("The inference engine is shutting down; try again shortly")
        room = Room(self, owner)
        room.add(tensors, "inputs")
        try:
            yield room
        finally:
            room.leave()

    async def run(
        self, graph: RawGraph, parcel: Parcel, outputs: Sequence[Declared], owner: Hashable = None
    ) -> Cargo:
        """The outputs. Cancelling it ends the run at its next node.

        Args:
            owner: all runs of one have one turn together; None: this one has its own.

        Raises:
            InvalidInput: the graph failed.
            InferenceTimeout: it did not end.
        """
        run = _Run(graph, parcel, outputs)
        try:
            async with asyncio.timeout(MOST_SECONDS):
                await self._scheduler.run(run, [_WEIGHT], _FORM, owner, heavy=True)
        except TimeoutError:
            raise InferenceTimeout(f"The graph did not end within {MOST_SECONDS:g} s") from None
        finally:
            run.stop()
        return run.results

    def refuse(self) -> None:
        """Admit no further call."""
        self._closed = True


def _open(path: Path, providers: Sequence[str]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Arrays may be of any size: an arena would keep room for the largest for ever.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=libraries(providers))
    except Exception as error:  # the library raises bare Exception and classes of its own
        raise StartError(
            f"The graph cannot be loaded: {error}",
            where=str(path),
            remedy="check the file, and that its weights lie beside it",
        ) from error
    check_started(providers, session.get_providers())
    return session


def _declared(argument: Any) -> Declared:
    return Declared(argument.name, _type_of(argument.type), list(argument.shape or ()))


def _type_of(declared: str) -> str:
    """`tensor(float)` as numpy calls it; what is no tensor, or of no type that numpy has, stays as it is."""
    name = declared.removeprefix("tensor(").removesuffix(")")
    name = {"float": "float32", "double": "float64"}.get(name, name)
    return name if name in BYTES or name == STRING else declared


def _bytes(tensor: Tensor) -> int:
    """What it takes in memory, as far as that matters: a huge shape is not multiplied to its end."""
    if tensor.dtype != STRING:
        return max(tensor.size, 0)
    count = reduce(lambda product, size: min(product * max(size, 0), MOST), tensor.shape, 1)
    return max(tensor.size, 0) + _STRING * count


def _check(tensor: Tensor, takes: dict[str, Declared]) -> None:
    name, declared = tensor.name, takes.get(tensor.name)
    if declared is None:
        raise InvalidInput(f"The graph has no input {name!r}: it has {', '.join(takes)}")
    if tensor.dtype != declared.dtype:
        raise InvalidInput(f"The graph's input {name!r} is of {declared.dtype}, and not of {tensor.dtype}")
    # A number and an array of unknown rank are declared alike: the library tells them apart.
    wanted, given = declared.shape, tensor.shape
    pairs = zip(wanted, given, strict=False)
    if wanted and (
        len(wanted) != len(given) or any(isinstance(size, int) and 0 <= size != got for size, got in pairs)
    ):
        raise InvalidInput(f"The graph's input {name!r} has shape {_shape(wanted)}, and not {_shape(given)}")


def _shape(sizes: Sequence[int | str | None]) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in sizes)}]"


def _no_array(declared: Declared, outputs: Sequence[Declared]) -> str:
    arrays = [output.name for output in outputs if output.dtype in BYTES or output.dtype == STRING]
    return (
        f"The graph's output {declared.name!r} is no array but a {declared.dtype}: "
        f"ask for others with outputs=[…] ({', '.join(arrays) or 'it has none'})"
    )


def _array(tensor: Tensor, data: bytearray) -> Any:
    if tensor.dtype == BFLOAT16:  # numpy has no such type: its bits will do
        tensor = Tensor(tensor.name, "uint16", tensor.shape, tensor.size)
    return unpacked(tensor, data)


def _value(tensor: Tensor, array: Any) -> Any:
    from onnxruntime import OrtValue

    if tensor.dtype == BFLOAT16:
        return OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16_ONNX)
    return OrtValue.ortvalue_from_numpy(array)


def _cargo(outputs: Sequence[Declared], values: Sequence[Any]) -> Cargo:
    tensors: list[Tensor] = []
    data: list[memoryview] = []
    for output, value in zip(outputs, values, strict=True):
        if output.dtype == BFLOAT16:
            bits = memoryview(_bits(value))
            tensor = Tensor(output.name, BFLOAT16, list(value.shape()), len(bits))
        else:
            (tensor,), (bits,) = pack({output.name: value.numpy()})
        tensors.append(tensor)
        data.append(bits)
    return tensors, data


def _bits(value: Any) -> bytes:
    """The bytes of a value whose type numpy does not have."""
    return ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()) if all(value.shape()) else b""
