"""Tensors of a `model.safetensors`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.engine.models.graphs.config import broken
from runtime.errors import StartError

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    Array = NDArray[float32]

_KINDS = ("F64", "F32", "F16", "BF16")  # of others, a number means nothing without a scale


class Tensors:
    """Tensors by the name that they have in a bare encoder, as floats of 32 bits.

    Args:
        tensors: the open file.
        path: its name.
        prefixes: of the encoder's tensors in a model with a head.
        progress: told how many bytes of tensors have been read.
    """

    def __init__(
        self, tensors: Any, path: Path, prefixes: Sequence[str], progress: Callable[[int], None]
    ) -> None:
        self._tensors, self._path, self._progress = tensors, path, progress
        names: list[str] = tensors.keys()
        self._keys = {_bare(name, prefixes): name for name in names}
        self._done = 0

    def __contains__(self, name: str) -> bool:
        return name in self._keys

    def take(self, name: str, *shape: int) -> Array:
        """A tensor of this shape; -1 stands for any number.

        Raises:
            StartError: it is not there, or has another shape, or a type that says nothing alone.
        """
        import numpy as np

        if name not in self._keys:
            raise self._unfit(f"it has no tensor {name!r}")
        kind = self._tensors.get_slice(self._keys[name]).get_dtype()
        if kind not in _KINDS:
            raise StartError(
                f"Its tensor {name!r} is of type {kind}, which is not supported",
                where=str(self._path),
                remedy=f"save the model with weights of one of the types {', '.join(_KINDS)}",
            )
        tensor = self._tensors.get_tensor(self._keys[name])
        if len(tensor.shape) != len(shape) or not all(map(_fits, tensor.shape, shape)):
            raise self._unfit(
                f"its tensor {name!r} has the shape {_words(tensor.shape)} instead of {_words(shape)}"
            )
        self._done += tensor.nbytes
        self._progress(self._done)
        return np.asarray(tensor, dtype=np.float32)

    def _unfit(self, why: str) -> StartError:
        return broken(self._path, f"{why}, which config.json beside it asks for")


def _bare(key: str, prefixes: Sequence[str]) -> str:
    key = next((key.removeprefix(prefix) for prefix in prefixes if key.startswith(prefix)), key)
    # The oldest files have other names for the two halves of a LayerNorm.
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _fits(size: int, wanted: int) -> bool:
    return wanted in (size, -1)


def _words(shape: tuple[int, ...]) -> str:
    return " × ".join("any" if size == -1 else str(size) for size in shape) or "of a single number"
