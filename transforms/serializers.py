"""Kafka's Java (de)serializers by name, as Python functions with the same bytes.

Pipelines written for ``apache_beam.io.kafka`` name Java classes. The common ones have a fixed wire format (big-endian
numbers, UTF-8), so Python does the same without a JVM. Anything else is a Python callable of the user's.
"""

from __future__ import annotations

import struct
import typing
import uuid
from typing import TYPE_CHECKING, Any

from apache_beam import coders, typehints
from apache_beam.internal import pickler

from beam_k8s.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NullableBytes", "deserializer", "serializer"]

_PACKAGE = "org.apache.kafka.common.serialization."

Deserializer = typing.Callable[[bytes], Any]
Serializer = typing.Callable[[Any], bytes]


class _NullableType(type):
    """A type whose instances are those of its base, and None."""

    def __instancecheck__(cls, instance: object) -> bool:
        return instance is None or isinstance(instance, cls.__bases__[0])


class NullableBytes(bytes, metaclass=_NullableType):
    """Type hint only: ``bytes``, or None for a null key or a tombstone. No value has this class.

    Beam's hint is ``KV[bytes, bytes]``, whose coder fails on the first null key or tombstone that meets a shuffle. A
    hint of ``Optional[bytes]`` would survive that, but then Beam refuses a step that declares ``bytes``. As a subclass
    of ``bytes`` this hint is accepted wherever ``bytes`` is, and its own coder can write None.
    """

    __slots__ = ()


class _NullableStr(str, metaclass=_NullableType):
    __slots__ = ()


class _NullableInt(int, metaclass=_NullableType):
    __slots__ = ()


class _NullableFloat(float, metaclass=_NullableType):
    __slots__ = ()


_NULLABLE: dict[type, type] = {
    bytes: NullableBytes,
    str: _NullableStr,
    int: _NullableInt,
    float: _NullableFloat,
}


class _NullableCoder(coders.NullableCoder):
    """Beam's own nullable coder (a standard URN, so the JVM knows it), found by our type hints."""

    @classmethod
    def from_type_hint(cls, typehint: Any, registry: Any) -> Any:
        return coders.NullableCoder(registry.get_coder(typehint.__bases__[0]))


for _hint in _NULLABLE.values():
    coders.registry.register_coder(_hint, _NullableCoder)


def _number(layout: str, name: str) -> Callable[[bytes], Any]:
    form = struct.Struct(layout)

    def read(data: bytes) -> Any:
        if len(data) != form.size:
            raise ValueError(f"{name} needs {form.size} bytes, the record has {len(data)}.")
        return form.unpack(data)[0]

    return read


_DESERIALIZERS: dict[str, tuple[Deserializer | None, Any]] = {
    "ByteArrayDeserializer": (None, bytes),
    "BytesDeserializer": (None, bytes),
    "ByteBufferDeserializer": (None, bytes),
    "StringDeserializer": (bytes.decode, str),
    "LongDeserializer": (_number(">q", "LongDeserializer"), int),
    "IntegerDeserializer": (_number(">i", "IntegerDeserializer"), int),
    "ShortDeserializer": (_number(">h", "ShortDeserializer"), int),
    "DoubleDeserializer": (_number(">d", "DoubleDeserializer"), float),
    "FloatDeserializer": (_number(">f", "FloatDeserializer"), float),
    "BooleanDeserializer": (_number(">?", "BooleanDeserializer"), bool),
    "UUIDDeserializer": (lambda data: uuid.UUID(data.decode()), uuid.UUID),
    "VoidDeserializer": (lambda _: None, type(None)),
}

_SERIALIZERS: dict[str, tuple[Serializer | None, Any]] = {
    "ByteArraySerializer": (None, bytes),
    "BytesSerializer": (None, bytes),
    "ByteBufferSerializer": (None, bytes),
    "StringSerializer": (str.encode, str),
    "LongSerializer": (struct.Struct(">q").pack, int),
    "IntegerSerializer": (struct.Struct(">i").pack, int),
    "ShortSerializer": (struct.Struct(">h").pack, int),
    "DoubleSerializer": (struct.Struct(">d").pack, float),
    "FloatSerializer": (struct.Struct(">f").pack, float),
    "BooleanSerializer": (struct.Struct(">?").pack, bool),
    "UUIDSerializer": (lambda value: str(value).encode(), uuid.UUID),
}


class _Named:
    """A function of the tables above, pickled by its name: their closures need not be picklable."""

    def __init__(self, table: str, name: str) -> None:
        self._table, self._name = table, name
        tables: dict[str, dict[str, tuple[Any, Any]]] = {"d": _DESERIALIZERS, "s": _SERIALIZERS}
        self._function = tables[table][name][0]

    def __call__(self, value: Any) -> Any:
        return self._function(value)

    def __reduce__(self) -> tuple[type[_Named], tuple[str, str]]:
        return _Named, (self._table, self._name)


def deserializer(option: str, given: object) -> tuple[Deserializer | None, Any]:
    """Return the function for ``key_deserializer`` or ``value_deserializer``, and the type hint of what it gives.

    None as the function means: the bytes as they are. Null keys and values never reach the function: they stay None.

    Raises:
        ConfigError: an unknown name, or a callable that cannot be sent to a worker.
    """
    if isinstance(given, str):
        name = _java_name(option, given, _DESERIALIZERS)
        function, hint = _DESERIALIZERS[name]
        hint = _NULLABLE.get(hint, typehints.Optional[hint] if hint is not type(None) else hint)
        return (function and _Named("d", name)), hint
    return _checked_callable(option, given), _returned_hint(given)


def serializer(option: str, given: object) -> tuple[Serializer | None, Any]:
    """Return the function for ``key_serializer`` or ``value_serializer``, and the type hint of what it takes.

    None as the function means: bytes as they are. None as a key or value is never given to the function: it stays null.

    Raises:
        ConfigError: an unknown name, or a callable that cannot be sent to a worker.
    """
    if isinstance(given, str):
        name = _java_name(option, given, _SERIALIZERS)
        function, hint = _SERIALIZERS[name]
        return (function and _Named("s", name)), typehints.Optional[hint]
    return _checked_callable(option, given), typehints.Any


def _java_name(option: str, given: str, known: dict[str, tuple[Any, Any]]) -> str:
    name = given.removeprefix(_PACKAGE)
    if name not in known:
        raise ConfigError(
            f"{option} is {given!r}, a Java class that has no Python form here.",
            hint=f"Known are {', '.join(known)} (of {_PACKAGE[:-1]}). For any other format give a Python "
            f"function of bytes, or leave {option} out and convert in the next step.",
        )
    return name


def _checked_callable(option: str, given: object) -> Any:
    if not callable(given):
        raise ConfigError(
            f"{option} is {given!r}.",
            hint="Give the name of a Java class of Kafka, or a Python function.",
        )
    try:
        pickler.loads(pickler.dumps(given))
    except Exception as error:
        raise ConfigError(
            f"{option} is {given!r}, which cannot be sent to the workers: {error}",
            hint="Use a function of a module; open files, locks and clients belong into a DoFn's setup().",
        ) from error
    return given


def _returned_hint(function: object) -> Any:
    """The nullable form of a plain type that the function is, or says to return; else Any, which every step accepts."""
    if not isinstance(function, type):
        try:
            function = typing.get_type_hints(function).get("return")
        except Exception:  # noqa: BLE001 - an annotation that cannot be evaluated tells nothing
            return typehints.Any
    return _NULLABLE.get(function, typehints.Any) if isinstance(function, type) else typehints.Any
