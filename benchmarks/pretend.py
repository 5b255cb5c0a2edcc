"""A device that this machine does not have, and what a program does on it that a GPU would have to be waited for.

The device is called `pretend`. Its tensors are tensors of the processor in disguise: torch hands every operation on
them over to this module, where it is noted and then done by the processor. As on a GPU, an operation on tensors of both
sides is refused. Once a process has called `install`, torch knows the device until the process ends.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree, backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "pretend"
READ, SENT, SHAPE, QUEUED = "read back", "sent", "shape", "queued"
WAITS = (READ, SENT, SHAPE)
KINDS = {
    READ: "a number or tensor of the device is looked at by the host, which waits until it is computed",
    SENT: "a tensor made on the host is copied to the device, and the host waits for the copy",
    SHAPE: "the shape of a result depends on numbers of the device, which the host waits for",
    QUEUED: "a tensor made on the host is copied to the device, and nobody waits",
}
SHAPES = frozenset(
    {"nonzero", "masked_select", "unique_dim", "unique_consecutive", "_unique", "_unique2", "bincount", "histc"}
)
"""Operations of torch whose result has a shape that depends on numbers, or that look for the largest one first."""
READS = frozenset({"_local_scalar_dense", "equal", "is_nonzero", "multinomial", "linalg_cholesky", "linalg_inv"})
"""Operations that look at numbers: to return one, or to refuse impossible ones."""
INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"})
ROOT = Path(__file__).parents[1]


class Disguised(Tensor):
    """A tensor of the pretended device; `raw` has its numbers."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Disguised:
        """A tensor of the same shape, type and layout."""
        made: Disguised = Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    def __deepcopy__(self, memo: Any) -> Any:
        copied = Disguised(self.raw.clone()).requires_grad_(self.requires_grad)
        return torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied

    def tolist(self) -> Any:
        """As torch does it: all numbers are read at once."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Outside a `Watch`, for instance in a thread of the backward pass."""
        return _performed(func, args, kwargs or {})


class Watch(TorchDispatchMode):
    """Within it every operation on the device is noted, by its kind and by the line of `cl` that asked for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the operation, and do it."""
        kwargs = kwargs or {}
        kind = kind_of(func, args, kwargs)
        if kind is not None:
            self.seen[kind, _asked_by()] += 1
        return _performed(func, args, kwargs)

    def taken(self) -> Counter[tuple[str, str]]:
        """What was noted since the last call."""
        seen, self.seen = self.seen, Counter()
        return seen


class _Module(backend_registration._DummyBackendModule):
    """What torch asks of a device's own module, as `torch.cuda` is that of GPUs."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """For `torch.autocast`."""
        return [torch.bfloat16]


def install() -> torch.device:
    """Make torch know the device; returns it."""
    if backend_registration._privateuse1_backend_name != NAME:
        backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    return torch.device(NAME, 0)


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Within the body the device is there and everything done on it is noted."""
    install()
    plain, watch = torch.Generator, Watch()

    class Generator:
        """Those of the device are of the processor too."""

        def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
            return plain("cpu" if torch.device(device).type == NAME else device)

    made = torch.tensor

    def tensor(data: Any, *, device: Any = None, **settings: Any) -> Tensor:  # as torch does it, but in Python
        return made(data, **settings) if device is None else made(data, **settings).to(device)

    torch.Generator, torch.tensor = Generator, tensor  # type: ignore[misc, assignment]
    try:
        with watch:
            yield watch
    finally:
        torch.Generator, torch.tensor = plain, made  # type: ignore[misc]


def kind_of(func: Any, args: Any, kwargs: Any) -> str | None:
    """What the host does with the device in this operation, a key of `KINDS`; None: nothing.

    Raises `RuntimeError` for an operation on tensors of both sides.
    """
    name = func.overloadpacket.__name__
    here, there = _sides((args, kwargs))
    if name in ("_to_copy", "copy_"):
        return _copied(name, args, kwargs)
    if not there:
        return None
    if name in INDEXING:
        return _indexed(args)
    if name in READS:
        return READ
    if name in SHAPES or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        return SHAPE
    if any(tensor.dim() for tensor in here):
        raise RuntimeError(f"{func}: has tensors of the host and of the device, which a GPU refuses")
    return None


def _copied(name: str, args: Any, kwargs: Any) -> str | None:
    if name == "copy_":
        to_device, from_device = isinstance(args[0], Disguised), isinstance(args[1], Disguised)
        waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
    else:
        from_device = isinstance(args[0], Disguised)
        to_device = _is_there(kwargs["device"]) if kwargs.get("device") is not None else from_device
        waits = not kwargs.get("non_blocking")
    if to_device == from_device:
        return None
    return READ if from_device else SENT if waits else QUEUED


def _indexed(args: Any) -> str | None:
    """Of an index on a tensor of the device; one with true and false asks how many are true."""
    indices = [index for index in args[1] if index is not None]
    if not isinstance(args[0], Disguised):
        raise RuntimeError("a tensor of the host is indexed by one of the device, which a GPU refuses")
    if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
        fills = len(args) > 2 and args[2].numel() == 1  # torch takes this for `masked_fill`
        return None if fills else SHAPE
    return SENT if any(not isinstance(index, Disguised) for index in indices) else None


def _sides(values: Any) -> tuple[list[Tensor], list[Disguised]]:
    tensors = [leaf for leaf in _pytree.tree_leaves(values) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Disguised)]
    return [tensor for tensor in tensors if not isinstance(tensor, Disguised)], there


def _is_there(device: Any) -> bool:
    return torch.device(device).type == NAME


def _performed(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The operation on the tensors behind the disguise; its result is of the device where that is asked for."""
    there = bool(_sides((args, kwargs))[1])
    plain_args, plain_kwargs = _pytree.tree_map_only(Disguised, lambda tensor: tensor.raw, (args, kwargs))
    if plain_kwargs.get("device") is not None:
        there = _is_there(plain_kwargs["device"])
        plain_kwargs = plain_kwargs | {"device": torch.device("cpu")} if there else plain_kwargs
    found = func(*plain_args, **plain_kwargs)
    return _pytree.tree_map_only(Tensor, Disguised, found) if there else found


def _asked_by() -> str:
    """`cl/replay.py: recall`: the innermost function of `cl` that is being executed."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "cl") and path.name != "gpu.py":
            return f"{path.relative_to(ROOT).as_posix()}: {frame.f_code.co_qualname.rpartition('<locals>.')[2]}"
        frame = frame.f_back  # type: ignore[assignment]
    return "torch"
