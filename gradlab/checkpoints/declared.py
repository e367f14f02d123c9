"""Checks of the shapes, storages and calls that a pickle of tensors declares, without executing any of them.

`torch.load` allocates whatever a file requests: a tensor with stride 0 may declare a billion values and store one.
Here every name in the pickle is replaced by an inert object, so that nothing is called, and the declarations are
checked before torch reads the file.
"""

from __future__ import annotations

import math
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any, NoReturn

from gradlab.errors import GradlabError

MOST_OPERATIONS = 500_000
"""Largest number of operations in a pickle; a tensor takes about 20."""

LONGEST_NAME = 200
"""Largest number of characters of a global name."""

MOST_EXPANDED = 64 * 2**20
"""Number of bytes by which tensors with stride 0 may exceed their storages in total."""

_ITEM_SIZES = {
    **{f"{name}Storage": 1 for name in ("Byte", "Char", "Bool", "QUInt8", "QInt8", "QUInt4x2", "QUInt2x4", "Untyped")},
    **{f"{name}Storage": 2 for name in ("Half", "BFloat16", "Short")},
    **{f"{name}Storage": 4 for name in ("Float", "Int", "QInt32")},
    **{f"{name}Storage": 8 for name in ("Double", "Long", "ComplexFloat")},
    "ComplexDoubleStorage": 16,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
}
_TEXT_ENCODINGS = ("latin1", "latin-1", "utf-8", "utf8", "ascii")


class _Inert:
    """A placeholder for any object that a pickle names or creates, which accepts everything and does nothing."""

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Ignore an item."""

    def extend(self, items: object) -> None:
        """Ignore items."""


class _Storage(_Inert):
    """A storage, with the bytes of one value and of all values."""

    def __init__(self, item: int, size: int) -> None:
        self.item, self.size = item, size


class DeclaredReader(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """Reads pickles written by `torch.save` into inert objects.

    Args:
        file: A file positioned at the beginning of a pickle.
        stored: A function from the key of a storage to its number of bytes in the file, or None if it has none.

    Attributes:
        storages: The number of bytes that each storage declares, by key.
    """

    def __init__(self, file: IO[bytes], stored: Callable[[str], int | None]) -> None:
        super().__init__(file, encoding="latin-1")
        self.storages: dict[str, int] = {}
        self._stored = stored
        self._operations = 0
        self._expanded = 0

    def count(self) -> None:
        """Count an operation.

        Raises:
            GradlabError: If there are too many.
        """
        self._operations += 1
        if self._operations > MOST_OPERATIONS:
            raise GradlabError(
                f"has more than {MOST_OPERATIONS:,} entries apart from the values of its tensors: save only its "
                "state_dict()"
            )

    def find_class(self, module: str, name: str) -> object:
        """Return an inert class in place of the named one."""
        full = f"{module}.{name}"
        if len(full) > LONGEST_NAME:
            _refuse(f"something with a name of {len(full):,} characters")
        reader = self

        class Named(_Inert):
            def __new__(cls, *args: Any, **options: Any) -> Any:
                return reader.called(full, args)

            def __init__(self, *args: Any, **options: Any) -> None:
                pass

        Named.__name__ = name
        return Named

    def persistent_load(self, pid: Any) -> _Inert:
        """Return a storage as the pickle declares it."""
        if not isinstance(pid, tuple) or len(pid) < 5 or not isinstance(pid[4], int):
            raise GradlabError("is damaged: it names an invalid storage")
        key, item = str(pid[2]), _item_size(pid[1])
        size = pid[4] * item
        stored = self._stored(key)
        if stored is None or not 0 <= size <= stored:
            raise GradlabError(f"is damaged: it says {size:,} bytes of a storage of {stored or 0:,}")
        self.storages[key] = size
        return _Storage(item, size)

    def called(self, name: str, args: tuple[Any, ...]) -> Any:
        """Return an inert result in place of that of a call.

        Raises:
            GradlabError: If the call would allocate memory that the file does not fill.
        """
        if name == "torch.Size":
            return tuple(args[0]) if args else ()
        if name == "_codecs.encode" and (len(args) != 2 or args[1] not in _TEXT_ENCODINGS):
            _refuse("text in an encoding that is none of text")
        if name.removeprefix("__builtin__.").removeprefix("builtins.") == "bytearray" and isinstance(
            next(iter(args), b""), int
        ):
            _refuse("bytes that it does not hold")
        if name.startswith("torch.") and name.endswith("Tensor") and any(isinstance(a, int | tuple) for a in args):
            _refuse("a tensor that it does not hold")
        made = object.__new__(_Made)
        made.reader = self
        if name.startswith("torch._utils._rebuild") and len(args) >= 4:
            self.declared(args)
        return made

    def declared(self, args: tuple[Any, ...]) -> None:
        """Check a tensor's shape against its storage, given (storage, offset, size, stride, …).

        Raises:
            GradlabError: If tensors have too many values that are not stored.
        """
        storage, _, size = args[:3]
        if not isinstance(storage, _Storage):
            return
        if not isinstance(size, tuple) or not all(isinstance(n, int) for n in size):
            raise GradlabError("is damaged: the shape of a tensor is invalid")
        item = max(storage.item, *(_item_size(a) for a in args[4:] if isinstance(a, type)), 1)
        self._expanded += max(0, math.prod(size) * item - storage.size)
        if self._expanded > MOST_EXPANDED:
            shape = " × ".join(f"{n:,}" for n in size[:6])
            raise GradlabError(
                f"is refused: a tensor of {shape} has {math.prod(size) * item:,} bytes and stores {storage.size:,}; "
                "save it with .contiguous()"
            )


class _Made(_Inert):
    """The inert result of a call; a tensor of an old file receives its storage afterwards."""

    reader: DeclaredReader

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) >= 4:
            self.reader.declared(state)


def _counted(operation: Callable[[Any], None]) -> Callable[[Any], None]:
    def counted(self: DeclaredReader) -> None:
        self.count()
        operation(self)

    return counted


def _newer(self: DeclaredReader) -> NoReturn:
    raise GradlabError(
        "is refused: it is no pickle as torch.save writes it, and reading it could run code; save its state_dict() "
        "with torch.save"
    )


# Like torch, this reads no operations above protocol 3, except for sets.
_KNOWN = {ord(op.code) for op in pickletools.opcodes if op.proto <= 3 or op.name == "EMPTY_SET"}
DeclaredReader.dispatch = {
    code: _counted(operation if code in _KNOWN else _newer)  # type: ignore[arg-type]
    for code, operation in pickle._Unpickler.dispatch.items()  # type: ignore[attr-defined]
}


def _item_size(kind: object) -> int:
    """Return the number of bytes of a value, given the class of a storage or a dtype."""
    return _ITEM_SIZES.get(getattr(kind, "__name__", ""), 1)


def _refuse(what: str) -> NoReturn:
    raise GradlabError(f"is refused: it asks for {what}; save its state_dict() alone, or as safetensors")


def check_pickle(file: IO[bytes], sizes: Mapping[str, int]) -> None:
    """Check the declarations of one pickle against bounds, and its storages against those in the file.

    Args:
        file: A file positioned at the beginning of the pickle.
        sizes: The number of bytes of each storage, by key.

    Raises:
        GradlabError: If it exceeds the bounds or is damaged. The message is to be prefixed with the file's name.
    """
    _read(DeclaredReader(file, sizes.get))


def check_legacy(file: IO[bytes], size: int) -> None:
    """Check a file in the format of torch before 1.6, which has five pickles followed by the storages.

    Args:
        file: A file positioned at its beginning.
        size: The number of bytes of the file.

    Raises:
        GradlabError: If it exceeds the bounds or is damaged. The message is to be prefixed with the file's name.
    """
    reader = DeclaredReader(file, lambda key: size)
    for _ in range(5):
        _read(reader)
    if sum(reader.storages.values()) > size:
        raise GradlabError(f"is damaged or cut short: it says more bytes of tensors than its own {size:,}")


def _read(reader: DeclaredReader) -> None:
    try:
        reader.load()
    except GradlabError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise GradlabError(f"is damaged or cut short: {type(error).__name__} in its pickle") from None
