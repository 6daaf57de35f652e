"""Strict settings: frozen dataclass <-> JSON, with errors that give the dotted path.

Nothing is repaired silently. An unknown key, a missing key and a value of another type are each a
:class:`~facke_core.errors.ConfigError` such as ``generator.num_id_block: unknown key; did you mean
'num_id_blocks'?``. ``bool`` is not an integer here; an integer is a float.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from facke_core import _json
from facke_core._files import check_regular, write_bytes
from facke_core.errors import ConfigError, FackeError, did_you_mean

__all__ = ["arguments", "from_dict", "read_json", "to_dict", "updated", "write_json"]

T = TypeVar("T")

get_type_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)

_PLAIN = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    type(None): "null",
}


def from_dict(cls: type[T], data: Any, *, where: str = "config") -> T:
    """Build the dataclass ``cls`` from parsed JSON.

    Field types may be int, float, bool, str, None, Any, Literal, unions, tuple, list, Sequence,
    dict, Mapping and other dataclasses. ``where`` is the first part of the path in messages.

    Raises:
        ConfigError: an unknown key, a missing key, a wrong type, or a value that ``cls`` refuses.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected an object with named values, got {_shown(data)}.")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise _unknown_key(where, key, fields)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(
                f"{where}.{name}: missing. Add it; expected {_expected(hints[name])}."
            )
    return _made(lambda: cls(**values), where)


def updated(config: T, settings: Mapping[str, Any], *, where: str = "config") -> T:
    """A copy of the dataclass instance ``config`` with some fields changed, checked as above.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value that the class refuses.
    """
    hints = get_type_hints(type(config))
    known = {f.name: f for f in dataclasses.fields(config) if f.init}  # type: ignore[arg-type]
    values = {}
    for key, value in settings.items():
        if key not in known:
            raise _unknown_key(where, key, known)
        values[key] = _convert(hints[key], value, f"{where}.{key}")
    return _made(lambda: dataclasses.replace(config, **values), where)  # type: ignore[type-var]


def arguments(
    function: Callable[..., Any], data: Mapping[str, Any], *, where: str = "config"
) -> dict[str, Any]:
    """Keyword arguments for ``function`` (or a class), checked against its annotations.

    Raises:
        ConfigError: an argument that it does not take, one that it needs, or a wrong type.
    """
    known = {}
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError:  # a type that is imported for type checkers only
        signature = inspect.signature(function)
    for key, parameter in signature.parameters.items():
        unknown = parameter.annotation is parameter.empty or isinstance(parameter.annotation, str)
        known[key] = Any if unknown else parameter.annotation
        if key not in data and parameter.default is parameter.empty:
            raise ConfigError(f"{where}.{key}: missing. Add it; expected {_expected(known[key])}.")
    values = {}
    for key, value in data.items():
        if key not in known:
            raise _unknown_key(where, key, known)
        values[key] = _convert(known[key], value, f"{where}.{key}")
    return values


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass ``config`` as plain JSON values; the inverse of :func:`from_dict`."""
    return {
        f.name: _plain(getattr(config, f.name), f.name)
        for f in dataclasses.fields(config)
        if f.init
    }


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ConfigError: the file is missing, unreadable or not strict JSON: NaN, repeated keys and
            top-level lists are refused, and what is nested or large beyond measure.
    """
    path = Path(path)
    try:
        check_regular(path)
        data = _json.read(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error}).") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a JSON object {{...}}, got {_shown(data)}.")
    return data


def write_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """:func:`write_text` of ``data``.

    Raises:
        ConfigError: the folder cannot be written.
    """
    write_text(path, json_text(data))


def json_text(data: Mapping[str, Any]) -> str:
    """The content of a file of :func:`write_json`."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file so that readers see the old one or the whole new one, never a part.

    Raises:
        ConfigError: the folder cannot be written; nothing is left behind.
    """
    try:
        write_bytes(Path(path), text.encode())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error}). Check the folder and the room in it."
        ) from error


def override(
    data: Mapping[str, Any], *assignments: str, schema: type | None = None, where: str = ""
) -> dict[str, Any]:
    """``data`` with each ``"dotted.key=value"`` applied; ``data`` itself is left alone.

    Values are JSON, else strings. Keys must be fields of the dataclass ``schema`` (keys inside its
    Mapping fields are free); without a schema they must be in ``data`` already.

    Raises:
        ConfigError: no ``=``, or an unknown key (with the nearest known one).
    """
    result = json.loads(json.dumps(data))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"{assignment!r} is not KEY=VALUE. Write, for example, steps=25.")
        _assign(result, key.split("."), text, schema, where)
    return typing.cast("dict[str, Any]", result)


def _made(make: Callable[[], T], where: str) -> T:
    """What ``make`` returns; a value that a class refuses becomes a ConfigError."""
    try:
        return make()
    except FackeError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _assign(data: dict[str, Any], keys: list[str], text: str, hint: Any, where: str) -> None:
    key, rest = keys[0], keys[1:]
    path = f"{where}.{key}" if where else key
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        known: Mapping[str, Any] = {f.name: hints[f.name] for f in dataclasses.fields(hint)}
    elif _is_mapping(hint):
        known = {key: (get_args(hint) or (str, Any))[1]}
    else:
        known = dict.fromkeys(data, None)
    if key not in known:
        raise _unknown_key(where, key, known)
    child = _settled(known[key])
    if not rest:
        as_text = child is str or (child is None and isinstance(data.get(key), str))
        data[key] = text if as_text else _value(text)
        return
    inner = data.get(key)
    if not isinstance(inner, dict):
        if not (_is_mapping(child) or dataclasses.is_dataclass(child)):
            raise ConfigError(f"{path} has no parts: {_shown(inner)}. Write {path}=VALUE.")
        inner = data[key] = {}
    _assign(inner, rest, text, child, path)


def _settled(hint: Any) -> Any:
    """The type inside ``X | None``; other types as they are."""
    if get_origin(hint) in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        return options[0] if len(options) == 1 else Any
    return hint


def _is_mapping(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return hint is Any or (isinstance(origin, type) and issubclass(origin, Mapping))


def _value(text: str) -> Any:
    try:
        return _json.parse(text)
    except ValueError:
        return text


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, where)
    if origin is Literal:
        for choice in args:
            if type(choice) is type(value) and choice == value:
                return value
        hint_text = did_you_mean(value, map(str, args)) if isinstance(value, str) else ""
        raise ConfigError(f"{where}: expected {_expected(hint)}, got {_shown(value)}.{hint_text}")
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where=where)
    if (origin or hint) in (tuple, list, Sequence):
        return _convert_sequence(hint, value, where)
    if _is_mapping(hint):
        if not isinstance(value, Mapping):
            raise _wrong_type(where, hint, value)
        of = args[1] if args else Any
        return {key: _convert(of, item, f"{where}.{key[:60]}") for key, item in value.items()}
    if hint is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if hint is None:
        hint = type(None)
    if hint in (int, bool, str, type(None)) and type(value) is hint:
        return value
    if hint in _PLAIN:
        raise _wrong_type(where, hint, value)
    raise TypeError(f"{where}: settings cannot hold {hint!r}")


def _convert_union(hint: Any, value: Any, where: str) -> Any:
    options = get_args(hint)
    if value is None and type(None) in options:
        return None
    last: ConfigError | None = None
    for option in options:
        try:
            return _convert(option, value, where)
        except ConfigError as error:
            # A nested object that almost fits explains itself better than "expected A or B".
            if isinstance(value, Mapping) and dataclasses.is_dataclass(option):
                raise
            if set(options) == {option, type(None)} and get_origin(option) is not None:
                raise
            last = error
    raise _wrong_type(where, hint, value) from last


def _convert_sequence(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint) or hint, get_args(hint)
    if not isinstance(value, list | tuple):
        raise _wrong_type(where, hint, value)
    if origin is tuple and args and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise ConfigError(
                f"{where}: expected {_expected(hint)}, got {len(value)} of them: {_shown(value)}."
            )
        kinds = args
    else:
        kinds = (args[0] if args else Any,) * len(value)
    items = [
        _convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
    ]
    return items if origin is list else tuple(items)


def _plain(value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _plain(getattr(value, f.name), f"{where}.{f.name}")
            for f in dataclasses.fields(value)
            if f.init
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ConfigError(f"{where}: {_shown(value)} cannot be written as JSON.")


def _unknown_key(where: str, key: str, known: Mapping[str, Any]) -> ConfigError:
    path = f"{where}.{key[:60]}" if where else key[:60]
    guess = did_you_mean(key, known).strip()
    guess = "; " + guess[0].lower() + guess[1:] if guess else "."
    return ConfigError(f"{path}: unknown key{guess} Known keys: {', '.join(known) or 'none'}.")


def _wrong_type(where: str, hint: Any, value: Any) -> ConfigError:
    return ConfigError(f"{where}: expected {_expected(hint)}, got {_shown(value)}.")


def _expected(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(option) for option in args)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if isinstance(hint, type) and hint in _PLAIN:
        return _PLAIN[hint]
    if (origin or hint) is tuple and args and args[-1] is not Ellipsis:
        return f"a list of {len(args)} values"
    if (origin or hint) in (tuple, list, Sequence):
        return "a list"
    return "an object"


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
