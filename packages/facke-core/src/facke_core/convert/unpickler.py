"""A reader of pickles that finds out what they describe, without doing what they say.

A pickle is a program for a stack machine. This one runs it on inert values: no name in the file is
ever imported. The few functions that describe tensors have their own meaning here; every other
name becomes a :class:`Global`, and calling, building or filling one makes a :class:`Record` that
only remembers it. Opcodes, bytes and integers are limited, so memory is.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from mmap import mmap
from typing import IO, Any, cast

__all__: list[str] = []

MAX_BYTES = 32 * 2**20
"""Largest size of one pickle. Tensors lie beside it; a network of 800 tensors needs less than
1 MB."""
MAX_OPCODES = 500_000
_MAX_BITS = 128
_MAX_DIMENSIONS = 8
_SCALARS = (str, bytes, int, float, bool, type(None))


class Global:
    """A name in the file, ``package.module.attribute``; never looked up."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Record:
    """An object that a pickle wants to have made: its name, and what was given to it."""

    __slots__ = ("args", "items", "name", "state")

    def __init__(self, name: str, args: Any = ()) -> None:
        self.name = name
        self.args = args
        self.state: Any = None
        self.items: dict[Any, Any] | None = None


class Storage:
    """A run of numbers in the file. ``start`` counts from the storage ``key``, in numbers."""

    __slots__ = ("dtype", "key", "numel", "start")

    def __init__(self, key: str, dtype: str, numel: int, start: int = 0) -> None:
        self.key, self.dtype, self.numel, self.start = key, dtype, numel, start


class StoredTensor:
    """A tensor that lies in the file; its numbers are inside its storage."""

    __slots__ = ("offset", "shape", "storage", "stride")

    def __init__(self, storage: Storage, offset: int, shape: Any, stride: Any) -> None:
        for sizes in (shape, stride):
            if not isinstance(sizes, tuple) or len(sizes) > _MAX_DIMENSIONS:
                raise ValueError("a tensor has no usable shape")
        if not all(type(number) is int and number >= 0 for number in (offset, *shape, *stride)):
            raise ValueError("a tensor has a shape, stride or offset that is no count")
        numel = math.prod(shape)
        last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
        if numel and (last >= storage.numel or numel > storage.numel):
            raise ValueError(
                f"a tensor of shape {shape} claims more than the {storage.numel} numbers of its "
                "storage"
            )
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride


class Window:
    """A part of a file, read from ``position`` on; at most :data:`MAX_BYTES` of it."""

    def __init__(self, data: mmap, start: int, stop: int) -> None:
        self._data, self.position = data, start
        self._stop = min(stop, start + MAX_BYTES)

    def read(self, count: int) -> bytes:
        """Read ``count`` bytes, or those that are left."""
        start, self.position = self.position, min(self.position + count, self._stop)
        return self._data[start : self.position]

    def readline(self) -> bytes:
        """Read up to the end of a line, which is included."""
        end = self._data.find(b"\n", self.position, self._stop)
        return self.read((end + 1 if end >= 0 else self._stop) - self.position)

    def tell(self) -> int:
        """The position in the file."""
        return self.position


def read_pickle(window: Window, persistent: Callable[[Any], Any]) -> Any:
    """The value that the pickle at ``window`` describes; the window ends up behind it.

    Args:
        window: the bytes of the pickle.
        persistent: maps a persistent id (what torch puts in the place of a storage) to a value.

    Raises:
        ValueError and other plain errors: it is damaged, too large, or not a pickle.
    """
    machine = _Machine(persistent)
    for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", window)):
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.step(opcode.name, argument)
    raise ValueError("its pickle has no end")


class _Machine:
    def __init__(self, persistent: Callable[[Any], Any]) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._persistent = persistent
        self._steps = 0

    def step(self, name: str, argument: Any) -> None:
        self._count(1)
        if name in _PUSHED:
            if type(argument) is int and argument.bit_length() > _MAX_BITS:
                raise ValueError("its pickle holds an integer of more than 128 bits")
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[_small(argument)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self._memo[_small(argument)])
        elif name not in ("PROTO", "FRAME"):
            act = getattr(self, f"_{name.lower()}", None)
            if act is None:
                raise ValueError(f"its pickle uses the step {name}, which no checkpoint needs")
            act(argument) if name in _WITH_ARGUMENT else act()

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_OPCODES:
            raise ValueError(f"its pickle has more than {MAX_OPCODES} steps")

    def _pop(self) -> Any:
        if self._marks and len(self.stack) <= self._marks[-1]:
            raise ValueError("its pickle takes more than it has")
        return self.stack.pop()

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    # -- stack and memo ----------------------------------------------------------------------

    def _mark(self) -> None:
        self._marks.append(len(self.stack))

    def _pop_mark(self) -> None:
        self._since_mark()

    def _dup(self) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    # -- containers --------------------------------------------------------------------------

    def _tuple(self) -> None:
        self.stack.append(tuple(self._since_mark()))

    _frozenset = _tuple

    def _tuple1(self) -> None:
        self._tuple_of(1)

    def _tuple2(self) -> None:
        self._tuple_of(2)

    def _tuple3(self) -> None:
        self._tuple_of(3)

    def _tuple_of(self, count: int) -> None:
        self.stack.append(tuple([self._pop() for _ in range(count)][::-1]))

    def _list(self) -> None:
        self.stack.append(self._since_mark())

    def _dict(self) -> None:
        values = self._since_mark()
        self.stack.append({})
        self._fill(values)

    def _append(self) -> None:
        self._extend([self._pop()])

    def _appends(self) -> None:
        self._extend(self._since_mark())

    _additems = _appends

    def _extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)
        elif not isinstance(self.stack[-1], Record):
            raise ValueError("its pickle appends to something that is no list")

    def _setitem(self) -> None:
        value, key = self._pop(), self._pop()
        self._fill([key, value])

    def _setitems(self) -> None:
        self._fill(self._since_mark())

    def _fill(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Record):
            target.items = items = {} if target.items is None else target.items
        elif isinstance(target, dict):
            items = target
        else:
            raise ValueError("its pickle sets an item of something that has none")
        for key, value in zip(values[::2], values[1::2], strict=True):
            items[_key(key)] = value

    # -- names and objects -------------------------------------------------------------------

    def _global(self, argument: str) -> None:
        self.stack.append(Global(argument.replace(" ", ".", 1)))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("its pickle names something with no text")
        self.stack.append(Global(f"{module}.{name}"))

    def _inst(self, argument: str) -> None:
        args = tuple(self._since_mark())
        self.stack.append(self._call(Global(argument.replace(" ", ".", 1)), args))

    def _obj(self) -> None:
        function, *args = self._since_mark()
        self.stack.append(self._call(function, tuple(args)))

    def _reduce(self) -> None:
        args, function = self._pop(), self._pop()
        self.stack.append(self._call(function, args))

    _newobj = _reduce

    def _newobj_ex(self) -> None:
        _, args, function = self._pop(), self._pop(), self._pop()
        self.stack.append(self._call(function, args))

    def _call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(args, tuple):
            return Record("unknown", args)
        if function.name == "torch._tensor._rebuild_from_type_v2" and len(args) == 4:
            return self._call(args[0], args[2])
        known = _FUNCTIONS.get(function.name)
        if known is None:
            return Record(function.name, args)
        if args and isinstance(args[0], list | tuple):
            self._count(len(args[0]))  # it may be copied
        return known(*args)

    def _build(self) -> None:
        state, target = self._pop(), self.stack[-1]
        if isinstance(target, Record):
            target.state = state

    def _persid(self, argument: str) -> None:
        self.stack.append(self._persistent(argument))

    def _binpersid(self) -> None:
        self.stack.append(self._persistent(self._pop()))


# EXT1, EXT2, EXT4 and the out-of-band buffers are left out: no checkpoint has them.
# fmt: off
_PUSHED = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE",
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT", "BINFLOAT",
})
# fmt: on
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_WITH_ARGUMENT = frozenset({"GLOBAL", "INST", "PERSID"})


def _key(key: Any) -> Any:
    """Refuse keys without a cheap hash: nested tuples, or numbers that collide, could take for
    ever."""
    if type(key) is int:
        return _small(key)
    if isinstance(key, (*_SCALARS, Global, Record, StoredTensor, Storage)):
        return key
    raise ValueError(f"its pickle uses a {type(key).__name__} as a key")


def _small(number: int) -> int:
    if abs(number) >= 2**60:
        raise ValueError("its pickle counts further than any checkpoint does")
    return number


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage that can be read")
    return StoredTensor(storage, offset, shape, stride)


def _mapping(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    """Make an OrderedDict, of pairs in files of Python 2, as a plain dict."""
    if isinstance(pairs, dict):
        return pairs
    if not isinstance(pairs, list | tuple):
        return {}
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("its pickle makes a mapping from something else than pairs")
    return {_key(key): value for key, value in pairs}


def _sequence(values: Any = (), *_: Any) -> list[Any]:
    return values if isinstance(values, list) else []


def _reconstructed(kind: Any, *_: Any) -> Record:
    """Stand in for ``copyreg._reconstructor``, which makes objects in pickles of protocol 0 and
    1."""
    return Record(kind.name if isinstance(kind, Global) else "unknown")


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch.Size": lambda sizes=(): sizes,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": lambda *_: {},
    **{
        f"{builtins}.{name}": function
        for builtins in ("builtins", "__builtin__")
        for name, function in (("dict", _mapping), ("set", _sequence), ("list", _sequence))
    },
    "copyreg._reconstructor": _reconstructed,
    "copy_reg._reconstructor": _reconstructed,
}
"""The names that mean something. Each only looks at its arguments."""
