"""What tensors take while code runs, asked of torch's dispatcher: processors have no peak counter of their own."""

import weakref

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode


class Allocations(TorchDispatchMode):
    """Bytes of all storages made inside this mode that are still alive, and the most there were after any operation.

    Sizes are asked anew each time: FSDP empties and fills storages behind the dispatcher's back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, torch.Tensor):
                local = each.to_local() if isinstance(each, DTensor) else each
                self._enter(local.untyped_storage())
        self.peak = max(self.peak, self.alive)
        return out

    @property
    def alive(self) -> int:
        return sum(storage.nbytes() for reference in self._storages.values() if (storage := reference()) is not None)

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        self._storages[key] = weakref.ref(storage, lambda _: self._storages.pop(key, None))
