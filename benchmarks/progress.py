"""What a benchmark says while it works."""

import sys
import time


class Progress:
    """A line for each piece of work, with the time that is left if the rest goes as fast."""

    def __init__(self, name: str, total: int):
        self.name, self.total, self.done, self.began = name, total, 0, time.perf_counter()

    def __call__(self, what: str) -> None:
        self.done += 1
        spent = time.perf_counter() - self.began
        left = spent / self.done * (self.total - self.done)
        print(f"{self.name} {self.done}/{self.total}, {spent:.0f} s, {left:.0f} s left: {what}", file=sys.stderr)
