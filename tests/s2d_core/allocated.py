"""What tensors take while code runs, asked of torch's dispatcher: processors have no peak counter of their own."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Allocations(TorchDispatchMode):
    """Bytes of all storages made inside this mode that are still alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.peak, self.seen = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, torch.Tensor):
                self._enter(each.untyped_storage())
        return out

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)

        def leave() -> None:
            self.seen.discard(key)
            self.alive -= size

        weakref.finalize(storage, leave)
