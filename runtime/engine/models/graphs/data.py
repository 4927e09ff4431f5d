"""The file beside the graphs that holds their weights, each once, for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PAGE = 4096  # where mapped weights begin


class Place(NamedTuple):
    """Where in the file a tensor lies, and what it is: an ONNX data type and a shape."""

    offset: int
    length: int
    kind: int
    shape: tuple[int, ...]


class Data:
    """Tensors by name, in a file that onnxruntime maps into memory instead of parsing it.

    Args:
        location: the file's name, as the graphs beside it call it.
        file: open for writing, at its start.
    """

    def __init__(self, location: str, file: IO[bytes]) -> None:
        self._location, self._file = location, file
        self._places: dict[str, Place] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def add(self, name: str, array: NDArray[Any]) -> None:
        """Write a tensor, as it is, to the end of the file."""
        import numpy as np
        from onnx import helper

        self._file.seek(-self._file.tell() % _PAGE, 1)
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self._places[name] = Place(self._file.tell(), array.nbytes, kind, array.shape)
        self._file.write(array.data)

    def tensor(self, name: str) -> Any:
        """What a graph says of a tensor in the file."""
        from onnx import TensorProto

        place = self._places[name]
        tensor = TensorProto(name=name, data_type=place.kind, dims=place.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", self._location),
            ("offset", place.offset),
            ("length", place.length),
        ):
            tensor.external_data.add(key=key, value=str(value))
        return tensor
