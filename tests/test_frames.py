"""The vocabulary of the house."""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import frames

Message = type[msgspec.Struct]


def _is_frame(kind: Any) -> bool:
    """A message; what only stands inside one has no tag."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct) and bool(kind.__struct_config__.tag)


FRAMES: list[Message] = [kind for kind in vars(frames).values() if _is_frame(kind)]
UNIONS = {name: value for name, value in vars(frames).items() if isinstance(value, types.UnionType)}


def value_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    if _is_frame(kind):
        return instance_of(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return st.lists(value_of(arguments[0]), max_size=4)
    if origin is tuple:
        return st.tuples(*map(value_of, arguments))
    if origin is dict:
        return st.dictionaries(value_of(arguments[0]), value_of(arguments[1]), max_size=4)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if arguments:
        return st.one_of(*map(value_of, arguments))
    return _SCALARS[kind]


_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    bytes: st.binary(max_size=50),
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    type(None): st.none(),
    Any: st.one_of(st.none(), st.booleans(), st.text(max_size=5), st.lists(st.text(max_size=3), max_size=3)),
}


def instance_of(kind: Message) -> st.SearchStrategy[msgspec.Struct]:
    """Messages of one kind, every field set."""
    fields = msgspec.structs.fields(kind)
    return st.builds(kind, **{field.name: value_of(field.type) for field in fields})


def smallest(kind: Message) -> bytes:
    """The message with nothing but its required fields, as bytes."""
    empty: dict[Any, Any] = {str: "", bytes: b"", int: 0, float: 0.0, bool: False}
    required = [field for field in msgspec.structs.fields(kind) if field.required]
    values = {field.name: empty.get(field.type, []) for field in required}
    for field in required:
        if typing.get_origin(field.type) is dict:
            values[field.name] = {}
    return msgspec.msgpack.encode(kind(**values))


each = pytest.mark.parametrize("kind", FRAMES, ids=lambda kind: kind.__name__)


@given(st.one_of(*map(instance_of, FRAMES)))
def test_every_message_comes_back_as_it_was(frame: msgspec.Struct) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(frame), type=type(frame)) == frame


@pytest.mark.parametrize("name", UNIONS)
def test_a_decoder_of_a_group_tells_its_messages_apart(name: str) -> None:
    members = typing.get_args(UNIONS[name])
    decoder = msgspec.msgpack.Decoder(UNIONS[name])
    assert [type(decoder.decode(smallest(kind))) for kind in members] == list(members)


def test_every_message_belongs_to_a_group_or_goes_inside_another() -> None:
    grouped = {kind for union in UNIONS.values() for kind in typing.get_args(union)}
    assert set(FRAMES) - grouped == {frames.ModelCard, frames.Tensor, frames.Declared}


def test_no_two_messages_share_a_tag() -> None:
    tags = [kind.__struct_config__.tag for kind in FRAMES]
    assert len(set(tags)) == len(tags)
    assert all(isinstance(tag, str) and 1 <= len(tag) <= 3 for tag in tags)


@each
def test_fields_of_a_later_version_are_tolerated(kind: Message) -> None:
    """An upgrade adds fields at the end: the older side ignores them."""
    known = smallest(kind)
    later = msgspec.msgpack.encode([*msgspec.msgpack.decode(known), "new", 7])
    assert msgspec.msgpack.decode(later, type=kind) == msgspec.msgpack.decode(known, type=kind)


@each
def test_fields_that_an_earlier_version_lacks_have_their_defaults(kind: Message) -> None:
    """The other direction: what is left out at the end is the default."""
    required = [field.required for field in msgspec.structs.fields(kind)]
    optional = required[::-1].index(True) if any(required) else len(required)
    whole = msgspec.msgpack.decode(smallest(kind), type=kind)
    array = msgspec.msgpack.decode(msgspec.msgpack.encode(whole))
    earlier = msgspec.msgpack.encode(array[: len(array) - optional])
    assert msgspec.msgpack.decode(earlier, type=kind) == whole


@each
def test_messages_are_arrays_and_all_but_a_head_are_frozen(kind: Message) -> None:
    assert kind.__struct_config__.array_like
    assert kind.__struct_config__.frozen == (kind is not frames.Head)


def test_the_messages_that_begin_a_conversation_carry_the_protocol_number() -> None:
    head = frames.Head(request_id="1", generation="g", method="GET", path="/", raw_path=b"/", headers=[])
    boot = frames.Boot(function="f", generation="g", directory="/", entrypoint="f/index.py", environ={})
    assert head.protocol == boot.protocol == frames.PROTOCOL == 1


def test_a_message_of_another_group_is_refused() -> None:
    decoder = msgspec.msgpack.Decoder(frames.RequestFrame)
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(msgspec.msgpack.encode(frames.Kill(1)))
