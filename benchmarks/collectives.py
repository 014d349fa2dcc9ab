"""What a compiled program sends, counted in its text (HLO): bytes a step for each kind of collective operation.

A device in a ring of g sends, for a result of S bytes (arXiv 1910.02054 sec. 7):

    all-reduce 2 (g - 1) / g S    all-gather, all-to-all (g - 1) / g S    reduce-scatter (g - 1) S    permute S

The body of a loop counts as often as it runs if the compiler knows how often, each branch of a condition once. An
operation in two halves counts at its first, "-start", whose result repeats the operand.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2} | {
    f"{kind}{bits}": bits // 8 for kind in "fsu" for bits in (8, 16, 32, 64)
}
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\((?=[%\w)])")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def sent(text: str, devices: int) -> dict[str, float]:
    """Bytes that each device sends in one run of the program, by kind; the average where they differ."""
    totals: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    for times, kind, size, group, pairs in _operations(text, devices):
        share = {
            "all-reduce": 2 * (group - 1) / group,
            "reduce-scatter": group - 1.0,
            "collective-permute": pairs / devices,
        }.get(kind, (group - 1) / group)
        totals[kind] += times * share * size
    return {kind: total for kind, total in totals.items() if total}


def count(text: str, devices: int) -> dict[str, int]:
    """How many collective operations one run of the program performs, by kind."""
    totals: Counter[str] = Counter()
    for times, kind, *_ in _operations(text, devices):
        totals[kind] += times
    return dict(totals)


def _operations(text: str, devices: int) -> Iterator[tuple[int, str, float, int, int]]:
    """(times it runs, kind, bytes of the result, devices in a group, pairs of a permutation) of each operation."""
    bodies, entry = _computations(text)

    def walk(name: str, times: int) -> Iterator[tuple[int, str, float, int, int]]:
        for line in bodies[name]:
            found = _OPERATION.search(line)
            if found:
                shape, kind, start = found.groups()
                group, size = _group(line, devices), _size(shape)
                if start and kind == "all-gather":  # (operand, result)
                    size *= group / (group + 1)
                elif start and kind == "collective-permute":
                    size /= 2
                yield times, kind, size, group, line.count("},{") + 1
                continue
            trips = _TRIPS.search(line)
            called = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                called += [branch.strip().lstrip("%") for branch in branches.split(",")]
            for inner in called:
                if inner in bodies:
                    yield from walk(inner, times * (int(trips[1]) if trips else 1))

    return walk(entry, 1)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by its name, and the name of the one that is run."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            name = header[2]
            bodies[name] = []
            entry = name if header[1] else entry
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _size(shape: str) -> float:
    """Bytes of a shape or a tuple of shapes: "f32[2,3]{1,0}", "(f32[2], s32[])"."""
    total = 0.0
    for kind, sizes in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape):
        total += _BYTES[kind] * math.prod(int(size) for size in sizes.split(",") if size)
    return total


def _group(line: str, devices: int) -> int:
    """The size of the groups, in each of the three ways to write them."""
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return listed[1].count(",") + 1
    return devices
