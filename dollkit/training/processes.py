"""The processes of one run, through Hugging Face accelerate.

Started by ``accelerate launch``, accelerate's ``notebook_launcher`` or, on the CPU too,
``torchrun``, every process draws the same batch and takes its share of the films; gradients are
summed over the processes with the weights of their films. Which process this is, its device and
what processes tell each other goes through accelerate. Its ``Accelerator`` is left out: it allows
one precision in the life of a process, where several runs may follow each other, and
``DistributedDataParallel`` sums gradients within the backward pass, where a process that runs out
of memory leaves the others waiting. The price of the same batch everywhere is that each process
draws and augments all of it.

Batch norm takes its statistics from the films of its own process. At each evaluation the running
ones of the first process are copied to all. So a network with batch norm in training mode does
not train as in one process; nor do losses divided by a sum over the batch (Dice, weights of
classes), or dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import broadcast, broadcast_object_list, reduce

from dollkit import compute
from dollkit.errors import InputError

Batch = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: 0 is the one that evaluates, logs and writes.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """This process's films of a batch whose tensors all have the films first.

        Raises:
            InputError: fewer films than processes.
        """
        if self.count == 1:
            return batch
        n = len(batch[0])
        if n < self.count:
            raise InputError(
                f"parameter 'batch' is {n}: {self.count} processes need as many films at least"
            )
        cut = slice(n * self.rank // self.count, n * (self.rank + 1) // self.count)
        return tuple(part[cut] for part in batch)

    def total(self, flat: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over the processes, the same bits in all of them."""
        out: torch.Tensor = reduce(flat, "sum")
        return out

    @torch.no_grad()
    def copy_first(self, tensors: list[torch.Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        if self.count > 1:
            for tensor in tensors:
                tensor.copy_(broadcast(tensor.contiguous()))

    def tell(self, value: Any) -> Any:
        """The first process's value, in every process."""
        if self.count == 1:
            return value
        return broadcast_object_list([value])[0]


def here() -> Processes:
    """The processes of this run; one, if it was not launched as several."""
    state = compute.launched()
    return Processes() if state is None else Processes(state.process_index, state.num_processes)
