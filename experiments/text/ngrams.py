"""Interpolated Witten-Bell n-grams: the exact language model to set beside a bound of a diffusion model.

With N(h) the number of times that the context h is followed by anything and T(h) by how many different tokens,

    p(w | h) = (count(h w) + T(h) p(w | h')) / (N(h) + T(h)),     h' = h without its first token,

and p(w) = 1 / K under the empty context, so that no token has probability zero. T. C. Bell, J. G. Cleary, I. H. Witten,
Text Compression, 1990, method C; interpolated as in S. F. Chen, J. Goodman, 1999, DOI 10.1006/csla.1999.0128, eq. (16).

An n-gram is named by its rank among the n-grams of the training text, so a table of any order holds one integer each.
"""

from dataclasses import dataclass

import numpy as np

from experiments.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """The k-grams: entry r is prefix * K + token, prefix a rank of k - 1; those of one prefix lie side by side."""

    keys: np.ndarray  # int64 (n,), increasing
    sums: np.ndarray  # int64 (n + 1,), how often the entries before r come
    starts: np.ndarray  # int64 (prefixes + 1,), where the entries of each prefix begin


@dataclass(frozen=True, kw_only=True, eq=False)
class NGrams:
    """A fitted model, see `fit`.

    Args:
        size: tokens are 0..size - 1.
        tables: of 1-grams, 2-grams, ...
    """

    size: int
    tables: tuple[_Table, ...]

    @classmethod
    def fit(cls, tokens: np.ndarray, size: int, order: int) -> "NGrams":
        """Counts a stream; a million tokens take about a second.

        Args:
            tokens: integers (n,) in 0..size - 1.
            size: tokens of the vocabulary, K.
            order: tokens that are looked at, the predicted one included; 1 for frequencies alone.

        Raises:
            UserError: fewer tokens than the order, tokens outside 0..size - 1, or an order below 1.
        """
        if order < 1:
            raise UserError(f"An n-gram has at least one token; got order {order}. Pass 1 to 6.")
        stream = _checked(np.asarray(tokens), size)
        if stream.ndim != 1 or len(stream) < order:
            raise UserError(
                f"{order}-grams are counted in a stream of at least {order} tokens (n,); got {stream.shape}. Pass "
                "one row, or a lower order."
            )
        tables, prefixes, ranks = [], 1, np.zeros(len(stream) + 1, np.int64)
        for _ in range(order):
            # The k-gram ending at i continues the (k - 1)-gram ending at i - 1; the first stands at k - 1.
            ending = ranks[:-1] * size + stream[len(stream) - len(ranks) + 1 :]
            keys, ranks, counts = np.unique(ending, return_inverse=True, return_counts=True)
            starts = np.searchsorted(keys, np.arange(prefixes + 1) * size)
            tables.append(_Table(keys=keys, sums=np.concatenate([[0], np.cumsum(counts)]), starts=starts))
            prefixes = len(keys)
        return cls(size=size, tables=tuple(tables))

    @property
    def order(self) -> int:
        return len(self.tables)

    def lower(self, order: int) -> "NGrams":
        """What `fit` would give for a lower order (1 to this one), without counting again."""
        if not 1 <= order <= self.order:
            raise UserError(
                f"A {self.order}-gram model holds orders 1 to {self.order}; got {order}. Fit a higher order."
            )
        return NGrams(size=self.size, tables=self.tables[:order])

    def bits(self, rows: np.ndarray) -> np.ndarray:
        """float64 (..., L): -log2 p of each token given those before it in its row, for tokens (..., L).

        Each row begins without context, as a window does for a diffusion model; a whole stream is one row.
        """
        rows = _checked(np.asarray(rows), self.size)
        p = np.full(rows.shape, 1 / self.size)
        before = np.zeros(rows.shape, np.int64)  # rank of what precedes each token; -1 for none, or one never seen
        for table in self.tables:
            p, ranks = self._refine(table, before, rows, p)
            before = np.concatenate([np.full((*rows.shape[:-1], 1), -1), ranks[..., :-1]], -1)
        return -np.log2(p)

    def bits_per_token(self, tokens: np.ndarray, length: int | None = None) -> float:
        """The mean over a stream (n,): read through, or with the context begun anew every `length` tokens.

        What is left after the last whole window counts as a shorter one.
        """
        if length is None:
            return float(self.bits(tokens).mean())
        if length < 1:
            raise UserError(f"A window has at least one token; got length {length}. Pass, for example, 256.")
        whole = len(tokens) // length * length
        parts = (self.bits(tokens[:whole].reshape(-1, length)), self.bits(tokens[whole:]))
        return float(sum(part.sum() for part in parts) / len(tokens))

    def distribution(self, context: np.ndarray) -> np.ndarray:
        """float64 (K,): p of every token after the tokens `context` (m,), m any number."""
        rows = np.tile(np.append(np.asarray(context, np.int64), 0), (self.size, 1))
        rows[:, -1] = np.arange(self.size)
        return np.exp2(-self.bits(rows[:, -self.order :])[:, -1])

    def sample(self, generator: np.random.Generator, count: int, length: int) -> np.ndarray:
        """int32 (count, length): texts drawn from the model, each from the empty context on."""
        rows = np.empty((count, length), np.int32)
        contexts = [np.zeros(count, np.int64), *(np.full(count, -1) for _ in self.tables[1:])]
        for i in range(length):
            # The formula is a mixture: the counts of a context with weight N / (N + T), else what a shorter one says.
            token = generator.integers(self.size, size=count)
            for table, context in zip(self.tables, contexts, strict=True):
                known = np.maximum(context, 0)
                first, last = table.starts[known], table.starts[known + 1]
                total = np.where(context < 0, 0, table.sums[last] - table.sums[first])
                ball = generator.random(count) * (total + np.where(context < 0, 0, last - first))
                drawn = np.searchsorted(table.sums, table.sums[first] + ball.astype(np.int64), side="right") - 1
                taken = ball < total
                token[taken] = table.keys[drawn[taken]] % self.size
            rows[:, i] = token
            ranks = [self._rank(table, c, token) for table, c in zip(self.tables, contexts, strict=True)]
            contexts = [contexts[0], *ranks[:-1]]
        return rows

    def _refine(
        self, table: _Table, before: np.ndarray, tokens: np.ndarray, p: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """p of one order more, and the ranks of the grams that end at each token."""
        ranks = self._rank(table, before, tokens)
        found, known = np.maximum(ranks, 0), np.maximum(before, 0)
        count = np.where(ranks < 0, 0, table.sums[found + 1] - table.sums[found])
        first, last = table.starts[known], table.starts[known + 1]
        kinds = np.where(before < 0, 0, last - first)
        total = np.where(before < 0, 0, table.sums[last] - table.sums[first])
        # A context that was never continued says nothing.
        return np.where(kinds == 0, p, (count + kinds * p) / np.maximum(total + kinds, 1)), ranks

    def _rank(self, table: _Table, before: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        keys = before * self.size + tokens
        places = np.minimum(np.searchsorted(table.keys, keys), len(table.keys) - 1)
        return np.where((before >= 0) & (table.keys[places] == keys), places, -1)


def _checked(tokens: np.ndarray, size: int) -> np.ndarray:
    if tokens.size and (tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() >= size):
        raise UserError(
            f"n-grams need integers in 0..{size - 1}; got {tokens.dtype} in {tokens.min()}..{tokens.max()}. Pass "
            "tokens of the tokenizer."
        )
    return tokens.astype(np.int64)
