"""What `config.json` says of an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from runtime.engine.models.card import is_scored, read_json, unused_positions
from runtime.engine.models.graphs.families import FAMILIES, Family, Keys
from runtime.errors import StartError

_Count = Annotated[int, msgspec.Meta(gt=0)]
_Epsilon = Annotated[float, msgspec.Meta(gt=0, lt=1)]
_T = TypeVar("_T")

_TRAINED = 2048  # nomic-bert turns further than it was trained to by other rules from here on


class Encoder(msgspec.Struct, frozen=True):
    """An encoder that can be converted.

    Attributes:
        approximation: of Gelu, as ONNX has it; "gated" for none.
        first: the row of the table of positions that a text begins with.
        longest: tokens, where no table of positions limits them.
        scored: it has a head that gives one number for a text.
    """

    family: Family
    hidden: int
    heads: int
    layers: int
    epsilon: float
    approximation: str
    first: int
    longest: int
    rotary_base: float
    scored: bool

    @property
    def width(self) -> int:
        """Of one head of attention."""
        return self.hidden // self.heads


def check_config(path: Path) -> Encoder:
    """What a `config.json` says, if it is of an encoder that can be converted.

    Raises:
        StartError: it is missing, broken, or of another architecture.
    """
    config = read_json(path)
    family = _choice(path, "model_type", _said(config, "model_type", "bert"), FAMILIES)
    keys = _keys(family, config)
    for key, value in family.fixed.items():
        _choice(path, key, _said(config, key, value), {value: None})
    if config.get("quantization_config"):
        raise _unfit(path, "its weights are quantised (quantization_config), which is not supported")
    scored = is_scored(config)
    if scored and family.head is None:
        raise _unfit(path, "it scores pairs of texts, which is not supported of this architecture")
    hidden = _read(path, config, keys.hidden, _Count)
    heads = _read(path, config, keys.heads, _Count)
    if hidden % heads:
        raise broken(path, f"{keys.hidden} {hidden} cannot be shared out to {heads} heads")
    return Encoder(
        family=family,
        hidden=hidden,
        heads=heads,
        layers=_read(path, config, keys.layers, _Count),
        epsilon=_read(path, config, keys.epsilon, _Epsilon, family.epsilon),
        approximation=_approximation(path, config, family),
        first=unused_positions(config),
        longest=min(_TRAINED, _read(path, config, "max_trained_positions", _Count, _TRAINED)),
        rotary_base=_rotary_base(path, config),
        scored=scored,
    )


def broken(path: Path, why: str) -> StartError:
    """The error for a file that is not what it should be."""
    return StartError(f"The file is broken: {why}", where=str(path), remedy="copy or install the model again")


def _keys(family: Family, config: Mapping[str, Any]) -> Keys:
    """The family's own names, or, where a file has not the first of them, the usual ones."""
    return family.keys if family.keys.hidden in config else Keys()


def _approximation(path: Path, config: Mapping[str, Any], family: Family) -> str:
    key, (usual, *_) = _keys(family, config).activation, family.activations
    return _choice(path, key, _said(config, key, usual), family.activations)


def _rotary_base(path: Path, config: Mapping[str, Any]) -> float:
    match config.get("rope_parameters"):
        case {"rope_type": "default", "rope_theta": int() | float() as base}:
            return float(base)
        case None:
            return float(_read(path, config, "rotary_emb_base", float, 1000.0))
        case {"rope_type": "default"}:
            raise broken(path, "rope_parameters has no rope_theta that is a number")
        case other:
            raise _unfit(path, f"rope_parameters {other!r} is not supported")


def _choice(path: Path, key: str, value: Any, supported: Mapping[Any, _T]) -> _T:
    try:
        return supported[value]
    except (KeyError, TypeError):
        words = ", ".join(repr(name) for name in supported)
        raise _unfit(path, f"{key} {value!r} cannot be converted; supported is {words}") from None


def _unfit(path: Path, why: str) -> StartError:
    remedy = "put the model's ONNX export, model.onnx, into the folder: that runs as it is"
    return StartError(why, where=str(path), remedy=remedy)


def _said(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """What it says; null is nothing."""
    value = config.get(key)
    return default if value is None else value


def _read(path: Path, config: Mapping[str, Any], key: str, kind: Any, default: Any = None) -> Any:
    value = _said(config, key, default)
    if value is None:
        raise broken(path, f"it does not say {key}")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise broken(path, f"{key}: {error}") from error
