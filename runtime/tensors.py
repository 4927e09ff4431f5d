"""Arrays between two processes: described in a frame, their bytes in pieces behind it.

numpy is imported where an array is in hand, so that whoever has none needs none.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from runtime.errors import InvalidInput
from runtime.frames import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PIECE = 512 * 1024
"""Bytes of one `Piece` frame at most."""

STRING = "string"
BFLOAT16 = "bfloat16"
BYTES = {
    **{name: 1 for name in ("bool", "int8", "uint8")},
    **{name: 2 for name in ("int16", "uint16", "float16", BFLOAT16)},
    **{name: 4 for name in ("int32", "uint32", "float32")},
    **{name: 8 for name in ("int64", "uint64", "float64")},
}
"""What a number takes, by the name of its type; a `STRING` takes what it takes."""

Cargo = tuple[list[Tensor], list[memoryview]]
"""Arrays as they travel: what they are, and the bytes of each."""


def pack(arrays: Mapping[str, NDArray[Any]]) -> Cargo:
    """Arrays as they travel; the bytes are the arrays' own where they may be.

    Raises:
        InvalidInput: an array is of a type that no graph takes.
    """
    packed = [_packed(name, array) for name, array in arrays.items()]
    return [tensor for tensor, _ in packed], [data for _, data in packed]


def pieces(cargo: Cargo) -> Iterator[bytes]:
    """The bytes as frames carry them: a piece is of one array."""
    for data in cargo[1]:
        for start in range(0, len(data), PIECE):
            yield bytes(data[start : start + PIECE])


class Parcel:
    """Arrays that arrive piece by piece."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors, self._data = tensors, [bytearray() for _ in tensors]
        self._short = deque(at for at, tensor in enumerate(tensors) if tensor.size > 0)

    @property
    def whole(self) -> bool:
        """Everything has arrived."""
        return not self._short

    def add(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            InvalidInput: it is more than was announced.
        """
        at = self._short[0] if self._short else None
        if at is None or len(self._data[at]) + len(piece) > self._tensors[at].size:
            raise InvalidInput("More bytes arrived than the arrays have")
        self._data[at] += piece
        if len(self._data[at]) == self._tensors[at].size:
            self._short.popleft()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What has arrived, by name; of bfloat16 needs `ml_dtypes`.

        Raises:
            InvalidInput: the bytes are not what was announced.
        """
        pairs = zip(self._tensors, self._data, strict=True)
        return {tensor.name: unpacked(tensor, data) for tensor, data in pairs}

    def each(self) -> Iterator[tuple[Tensor, bytearray]]:
        """The arrays' descriptions and bytes."""
        return zip(self._tensors, self._data, strict=True)


def _packed(name: str, array: NDArray[Any]) -> tuple[Tensor, memoryview]:
    import numpy as np

    kind = _type_of(name, array)
    if kind == STRING:
        data = memoryview(msgspec.msgpack.encode([_text(name, item) for item in array.reshape(-1).tolist()]))
    else:
        ordered = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        data = ordered.reshape(-1).view(np.uint8).data
    return Tensor(name, kind, list(array.shape), len(data)), data


def _type_of(name: str, array: NDArray[Any]) -> str:
    if array.dtype.kind in "OUT":
        return STRING
    if array.dtype.name in BYTES:
        return array.dtype.name
    raise InvalidInput(
        f"{name} is an array of {array.dtype.name}: a graph takes {', '.join(BYTES)} and strings"
    )


def _text(name: str, item: object) -> str:
    if not isinstance(item, str):
        raise InvalidInput(f"{name} has {type(item).__name__} among its strings: give str alone")
    try:
        item.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} has half a character (a lone surrogate) in a string") from error
    return item


def unpacked(tensor: Tensor, data: bytearray) -> NDArray[Any]:
    """The array that these bytes are; it may be written to.

    Raises:
        InvalidInput: they are not what was announced, or of bfloat16 without `ml_dtypes`.
    """
    import numpy as np

    count = math.prod(tensor.shape)
    if tensor.dtype == STRING:
        return np.array(_texts(tensor, data, count), dtype=object).reshape(tensor.shape)
    known = tensor.dtype in BYTES and min(tensor.shape, default=0) >= 0
    if not known or count * BYTES[tensor.dtype] != len(data):
        raise InvalidInput(f"{tensor.name} is no array: its bytes are not what was announced")
    kind = bfloat16(tensor.name) if tensor.dtype == BFLOAT16 else np.dtype(tensor.dtype).newbyteorder("<")
    if not data:
        return np.empty(tensor.shape, kind)
    return np.frombuffer(data, kind).reshape(tensor.shape)


def _texts(tensor: Tensor, data: bytearray, count: int) -> list[str]:
    if not 0 <= count <= len(data):  # a string takes a byte at least
        raise InvalidInput(f"{tensor.name} has fewer strings than the {count} of its shape")
    # In memory a string takes far more than its byte: so many as were announced, or none are made.
    exactly = Annotated[list[str], msgspec.Meta(min_length=count, max_length=count)]
    try:
        texts: list[str] = msgspec.msgpack.decode(data, type=exactly)
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"{tensor.name} is no array of {count} strings: {error}") from error
    return texts


def bfloat16(name: str) -> Any:
    """The type, as numpy knows it.

    Args:
        name: of the array that is to have it.

    Raises:
        InvalidInput: `ml_dtypes` is not installed.
    """
    try:
        import ml_dtypes
    except ImportError:
        raise InvalidInput(
            f"{name} is of bfloat16, which numpy does not have: install ml_dtypes, or let the graph "
            "cast it to float32"
        ) from None
    return ml_dtypes.bfloat16


def normalized(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every row scaled to length 1; a row of zeros stays one."""
    import numpy as np

    # At 64 bits, where the square of any 32-bit number is one.
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
    return (rows / np.where(lengths, lengths, 1)).astype(np.float32)
