"""Batches of a split, or of other examples: shuffled anew every epoch, sharded by process, endless, checkpointable.

The examples of all epochs form one stream; position p holds example `permutation(epoch p // N)[p mod N]`. Step n of a
run with B examples a step takes positions n B .. n B + B - 1, and process h of P takes those with p mod P = h. So a
batch is a pure function of (split, seed, n), the union over processes does not depend on P, and an example's `index`,
its position, names its training noise whatever the layout.

Grain carries it (threads, prefetching, state in checkpoints) and sees whole batches: shuffling single indices with
`grain.MapDataset.shuffle` gave 55,000 examples/s of 28x28 on one core, a permutation an epoch gives a million.
"""

import sys
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from experiments.data.images import Split, from_pixels
from experiments.data.order import coins, permutation
from experiments.errors import UserError

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]

_INDEX_RANGE = 2**31


class Examples(Protocol):
    """Anything but pictures that batches can be made of, windows of text for one."""

    def __len__(self) -> int: ...

    def take(self, examples: np.ndarray, epochs: np.ndarray, seed: int) -> Batch:
        """What a batch holds of each example but `index`, leading axis b; `epochs` (b,) says in which it is read."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Batches:
    """The batches of one process as a random-access sequence: `Batches(...)[n]` is the batch of step n.

    Args and errors: see `batches`.
    """

    split: Split | Examples
    batch_size: int
    seed: int
    process_index: int = 0
    process_count: int = 1
    flip: bool = False
    _order: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.process_index < self.process_count:
            raise UserError(
                f"process_index must lie in 0..process_count - 1; got {self.process_index} of {self.process_count}. "
                "Pass jax.process_index() and jax.process_count()."
            )
        if self.batch_size < 1 or self.batch_size % self.process_count:
            raise UserError(
                f"batch_size counts the examples of all processes and must be a positive multiple of process_count; "
                f"got {self.batch_size} for {self.process_count}. Choose, for example, "
                f"{max(1, round(self.batch_size / self.process_count)) * self.process_count}."
            )
        if self.seed < 0:
            raise UserError(f"seed must be a non-negative integer; got {self.seed}. Choose another.")
        if not len(self.split):
            raise UserError("A batch needs examples; the split is empty. Choose another split or data set.")
        if self.flip and not isinstance(self.split, Split):
            raise UserError("flip mirrors pictures; these examples are none. Leave it out.")
        count, seed = len(self.split), self.seed
        # Two epochs meet in a batch, and prefetching threads may stand in different ones.
        object.__setattr__(self, "_order", lru_cache(maxsize=4)(lambda epoch: permutation(count, seed, epoch)))

    def __len__(self) -> int:
        return sys.maxsize // self.batch_size

    def examples(self, positions: np.ndarray) -> np.ndarray:
        """int64 (n,): the example of the split that each position of the stream holds."""
        epochs, places = np.divmod(positions, len(self.split))
        examples = np.empty_like(places)
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            examples[here] = self._order(epoch)[places[here]]
        return examples

    def __getitem__(self, index: int) -> Batch:
        rows = self.batch_size // self.process_count
        positions = index * self.batch_size + self.process_index + self.process_count * np.arange(rows)
        # int32, JAX's integer: after 2^31 examples the positions begin again at 0.
        numbers = {"index": (positions % _INDEX_RANGE).astype(np.int32)}
        examples = self.examples(positions)
        if isinstance(self.split, Split):
            return self._pictures(self.split, examples, positions) | numbers
        return self.split.take(examples, positions // len(self.split), self.seed) | numbers

    def _pictures(self, split: Split, examples: np.ndarray, positions: np.ndarray) -> Batch:
        pixels, labels = split[examples]
        if self.flip:
            mirrored = coins(positions, self.seed)
            pixels[mirrored] = pixels[mirrored, :, ::-1]  # a copy of our own: indexed by an array
        batch = {"x0": from_pixels(pixels)}
        return batch if labels is None else batch | {"cond": np.asarray(labels, np.int32)}


def batches(
    split: Split | Examples,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    start: int = 0,
    prefetch: int = 2,
    flip: bool = False,
) -> "grain.DatasetIterator[Batch]":
    """An endless `grain.DatasetIterator` over dictionaries of NumPy arrays, b = batch_size / process_count:

    - `x0`: float32 (b, H, W, C) in [-1, 1]
    - `cond`: int32 (b,), labels; absent for an unlabeled split
    - `index`: int32 (b,), positions in the shuffled stream of all processes, modulo 2^31

    Other examples give what their `take` returns instead of `x0` and `cond`.

    Save it with `grain.checkpoint.CheckpointSave(iterator)` and restore it with `CheckpointRestore`; the batches that
    follow are the same to the bit. Its state is the number of batches taken, so it may be restored with another
    `prefetch` or, the batch size kept, another `process_count`.

    Args:
        split: where the examples come from: pictures, or anything with `__len__` and `take`, see `Examples`.
        batch_size: examples a step over all processes; may exceed the split, which then repeats within a batch, each
            epoch in its own order.
        seed: of the order and the flips; non-negative.
        process_index, process_count: this process and their number.
        start: batches to leave out at the beginning.
        prefetch: batches to prepare ahead in the background; 0 for none.
        flip: mirror each example left to right with probability 1/2, anew each epoch.

    Raises:
        UserError: a batch size that the processes cannot share evenly, an empty split, a negative seed or start.
    """
    try:
        import grain
    except ImportError as error:
        raise UserError(
            "Batches need Grain; it is not installed. Run pip install -e '.[experiments]', or index `Batches` directly."
        ) from error
    if start < 0 or prefetch < 0:
        raise UserError(f"start and prefetch count batches and cannot be negative; got {start} and {prefetch}.")
    source = Batches(
        split=split,
        batch_size=batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
        flip=flip,
    )
    # Arrays are gathered faster by one thread than by several that fight for the interpreter; records are decoded
    # mostly outside it.
    threads = min(prefetch, 16 if isinstance(split, Split) and split.read is not None else 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    iterator = iter(grain.MapDataset.source(source).to_iter_dataset(options))
    if start:
        # Not a slice of the data set: the state must stay the number of batches from the very beginning.
        iterator.set_state({"next_index": start})
    return iterator
