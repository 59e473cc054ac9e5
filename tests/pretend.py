"""A device that only pretends: its tensors lie in the processor's memory and behave as those of another device.

It refuses what MPS refuses (float64, which can be allowed as CUDA has it, and uint16) and what every device refuses
(operands on two devices), it runs out of memory where told to, and copies that are not waited for arrive late: until
`synchronize` or an event's wait, the processor sees what lay in memory before (`POISON`), and a copy to the device
whose source was freed or changed in the meantime brings that. It counts its waits, which is what a fast card loses
time by, and the bytes that are sent to it.

    device = pretend.device()
    with pretend.watch() as seen: ...
    seen.waits

Built on torch's key for devices of others, whose kernels Python may give (`torch.utils.backend_registration`).
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
POISON = 99  # what the processor reads of a copy that has not arrived; NaN for floats


@dataclass
class Seen:
    """What the device did.

    Args:
        operations: how often each ran, by name.
        waits: how often the processor waited for the device, by the operation that made it.
        n_bytes: memory in use.
        most_bytes: the most that was in use at any time.
        limit: bytes above which memory ends; None for no limit.
        float64: whether the device has that.
        sent: bytes that were copied to the device.
    """

    operations: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    n_bytes: int = 0
    most_bytes: int = 0
    limit: int | None = None
    float64: bool = False
    sent: int = 0


_state = Seen()
_late: list[Callable[[], None]] = []  # copies under way, in their order


class PretendTensor(torch.Tensor):
    """A tensor of the device; `_raw` holds its values in the processor's memory."""

    _raw: Tensor

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation that has an operand of the device."""
        parts = operation.decompose(*args, **(kwargs or {}))  # in inference mode torch leaves that to us
        return _run(operation, *args, **(kwargs or {})) if parts is NotImplemented else parts

    def __repr__(self, **_: Any) -> str:
        return f"pretended {self._raw!r}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restore, (self._raw,)

    def tolist(self) -> Any:
        """Wait for the device and return its numbers, which torch does not do for subclasses."""
        _state.waits["tolist"] += 1
        _arrive()
        return self._raw.tolist()


def _restore(raw: Tensor) -> Tensor:
    return _wrap(raw)


torch.serialization.add_safe_globals([_restore])
torch.serialization.register_package(
    0, lambda storage: None, lambda storage, place: storage if place.startswith(NAME) else None
)


def synchronize(*_: Any) -> None:
    """Wait for the device, as `torch.cuda.synchronize` does."""
    _state.waits["synchronize"] += 1
    _arrive()


def _arrive() -> None:
    for copy in _late:
        copy()
    _late.clear()


def _wrap(raw: Tensor) -> Tensor:
    """The tensor of the device with these values; `raw` may be a view."""
    if raw.dtype in _UNKNOWN and not (_state.float64 and raw.dtype == torch.float64):
        raise TypeError(f"the pretended device has no {raw.dtype}, as MPS has none")
    wrapped = torch.Tensor._make_wrapper_subclass(
        PretendTensor, raw.shape, raw.stride(), raw.storage_offset(), dtype=raw.dtype, device=torch.device(NAME, 0)
    )
    wrapped._raw = raw
    storage = raw.untyped_storage()
    if (key := storage._cdata) not in _storages:
        if _state.limit is not None and _state.n_bytes + storage.nbytes() > _state.limit:
            raise torch.OutOfMemoryError("the pretended device is out of memory")
        _state.n_bytes += storage.nbytes()
        _state.most_bytes = max(_state.most_bytes, _state.n_bytes)
    _storages[key] += 1
    weakref.finalize(wrapped, _free, key, storage.nbytes())
    return wrapped


def _free(key: int, n_bytes: int) -> None:
    _storages[key] -= 1
    if not _storages[key]:
        del _storages[key]
        _state.n_bytes -= n_bytes


def _run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operation of the device on the processor; its results are the device's."""
    name = operation._schema.name.removeprefix("aten::")
    given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    ours = [value for value in given if isinstance(value, PretendTensor)]
    if name == "copy_":
        return _copy(args[1], args[0], *args[2:], **kwargs)
    if name == "_to_copy" and torch.device(kwargs.get("device") or NAME).type != NAME:
        like = torch.empty_like(args[0]._raw, dtype=kwargs.get("dtype"), memory_format=kwargs.get("memory_format"))
        return _copy(args[0], like, kwargs.get("non_blocking", False))
    strangers = [value for value in given if value.ndim and not isinstance(value, PretendTensor)]
    if strangers and name not in ("index", "index_put_"):  # whose indices may lie with the processor
        raise RuntimeError(
            f"{name}: expected all tensors to be on one device, but found {NAME}:0 and {strangers[0].device}"
        )
    _state.operations[name] += 1
    _arrive()  # the device does its work in order
    masks = name in ("index", "index_put_") and any(t.dtype in (torch.bool, torch.uint8) for t in given[1:])
    if name in _WAITING or masks:
        _state.waits[name] += 1
    known = {id(t._raw): t for t in ours}
    raw_args, raw_kwargs = tree_map(_unwrap, (args, kwargs))
    result = operation(*raw_args, **raw_kwargs)
    return tree_map(
        lambda value: (
            known.get(id(value)) if id(value) in known else _wrap(value) if isinstance(value, Tensor) else value
        ),
        result,
    )


_UNKNOWN = {torch.float64, torch.complex128, torch.uint16, torch.uint32, torch.uint64}
_storages: Counter[int] = Counter()  # tensors of the device by their memory
_WAITING = frozenset(
    "_local_scalar_dense nonzero is_nonzero equal masked_select bincount _unique2 unique_dim unique_consecutive "
    "repeat_interleave".split()
)


def _unwrap(value: Any) -> Any:
    if isinstance(value, PretendTensor):
        return value._raw
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _create(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operation that makes a tensor of the device from none, or copies one to it."""
    if operation._schema.name == "aten::_to_copy":
        like = torch.empty_like(args[0], dtype=kwargs.get("dtype"), memory_format=kwargs.get("memory_format"))
        return _copy(args[0], _wrap(like), kwargs.get("non_blocking", False))
    return _run(operation, *args, **kwargs)


def _copy(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy from, to or within the device: late, if it does not block."""
    if isinstance(source, PretendTensor) and isinstance(target, PretendTensor):
        _state.operations["copy_"] += 1
        target._raw.copy_(source._raw)
        return target
    to_device = isinstance(target, PretendTensor)
    _state.operations["to the device" if to_device else "from the device"] += 1
    values, into = _unwrap(source), _unwrap(target)
    _state.sent += values.nbytes if to_device else 0
    if not non_blocking:
        _state.waits["copy"] += 1
        _arrive()
        into.copy_(values)
        return target
    into.fill_(torch.nan if into.is_floating_point() else into.dtype != torch.bool and POISON)
    alive = weakref.ref(source) if to_device else lambda: values  # the device does not keep memory of the processor

    def arrive() -> None:
        if (given := alive()) is not None:
            into.copy_(given)

    _late.append(arrive)
    return target


def _tensor(data: Any, *, device: Any = None, make: Any = torch.tensor, **kwargs: Any) -> Tensor:
    given = tree_map(lambda value: value.tolist() if isinstance(value, PretendTensor) else value, data)
    made: Tensor = make(given, **kwargs)
    return made if device is None else made.to(device)


def _cast_convolution(maps: Tensor, weight: Tensor, bias: Tensor | None = None, *settings: Any) -> Tensor:
    """Convolve in the type of autocast: the layers that take a network's time, and the only ones cast here."""
    with torch.autocast(NAME, enabled=False):
        given = [part if part is None else part.to(torch.get_autocast_dtype(NAME)) for part in (maps, weight, bias)]
        return torch.conv2d(*given, *settings)


class Event:
    """A point in the device's work that may be waited for."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, *_: Any) -> None:
        """Stand after all work so far."""

    def wait(self, *_: Any) -> None:
        """Make a stream wait: the pretended device has one."""

    def query(self) -> bool:
        """Whether all work before it is done."""
        return not _late

    def synchronize(self) -> None:
        """Wait for the work before it."""
        _state.waits["event"] += 1
        _arrive()


@cache
def device() -> torch.device:
    """Make the device known to torch, once in a process."""
    module = type(backend_registration)("pretend")
    for name, value in {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "synchronize": synchronize,
        "empty_cache": lambda: None,
        "Event": Event,
        "_is_in_bad_fork": lambda: False,
        "manual_seed_all": lambda seed: None,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
    }.items():
        setattr(module, name, value)
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=module)
    torch.tensor = _tensor  # whose own way to a device of C++ does not end in Python
    kernels, autocast, casting = (torch.library.Library(name, "IMPL") for name in ("_", "_", "aten"))
    kernels.fallback(_create, "PrivateUse1")
    autocast.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    casting.impl("conv2d", _cast_convolution, "AutocastPrivateUse1")
    _kept.extend([kernels, autocast, casting])
    return torch.device(NAME, 0)


_kept: list[torch.library.Library] = []  # a library forgets its kernels when it is freed


@contextmanager
def watch(limit: int | None = None, *, float64: bool = False) -> Iterator[Seen]:
    """Count what the device does from here on.

    Args:
        limit: bytes at which its memory ends; None for no limit.
        float64: whether it has that, as CUDA has.
    """
    _state.operations.clear()
    _state.waits.clear()
    _state.most_bytes, _state.limit, _state.float64, _state.sent = _state.n_bytes, limit, float64, 0
    try:
        yield _state
    finally:
        _state.limit, _state.float64 = None, False
