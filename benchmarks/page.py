"""docs/benchmarks.md from the committed JSON: `python -m benchmarks.page`, after new figures were measured.

A file's name says which benchmark wrote it (`throughput-unet-small.json`), its folder under `benchmarks/results` on
what kind of device. The page holds nothing that is not in the files, and says by itself where the peer is ahead.
"""

import importlib
import json
from pathlib import Path
from typing import Any

RESULTS, PAGE = Path(__file__).parent / "results", Path(__file__).parents[1] / "docs" / "benchmarks.md"
DEVICES = {"cpu": "CPU", "gpu": "GPU", "tpu": "TPU"}
SECTIONS = {
    "throughput": "Sampling",
    "train": "Training",
    "overhead": "A step of the solver",
    "compile": "Compilation",
    "scaling": "How cost grows",
    "parts": "Parts of networks",
    "pareto": "Error against evaluations",
}
INTRODUCTION = """# Benchmarks

Made by `python -m benchmarks.page` from the JSON in `benchmarks/results`; each figure can be measured anew, on your
device and with your network, by the command above it (`pip install .[experiments,bench]` for the peers). What was
done for speed, and what did not help, stands in [Performance](performance.md).

Programs are compiled, then warmed up by two calls, then timed, and every call is waited for; times are medians with
their quartiles, and compilation stands apart. Both sides hold the same weights, and the samples that they draw from
the same noise are compared. Read ratios of one table: seconds of different tables are of different days and loads.
How near a program comes to its device is read against a matrix product, a convolution and a copy of the same run."""


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The results of one kind of device by benchmark, in the order of their files' names."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SECTIONS}
    for path in sorted(folder.glob("*.json")):
        kind = path.stem.split("-")[0]
        if kind not in found:
            raise ValueError(f"needed a file named after one of {', '.join(SECTIONS)}, got {path}")
        found[kind].append(json.loads(path.read_text()))
    return found


def entry(kind: str, result: dict[str, Any]) -> list[str]:
    """The figures of one file and where they come from."""
    about, body = result["about"], importlib.import_module(f"benchmarks.{kind}").table(result)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    body = body if body.startswith("|") else f"```\n{body}\n```"
    lines = ["", f"`{about['command']}`", "", body, "", f"{about['hardware']}; {about['date']}; {versions}."]
    return [*lines, *([about["note"]] if "note" in about else [])]


def behind(kind: str, result: dict[str, Any]) -> list[str]:
    """Where a peer needs less time, or fewer evaluations, than ours."""
    about = result["about"]
    if kind in ("throughput", "train"):
        ours = result["jaxdiff"]["seconds"]["median"]
        others = result.get("diffusers" if kind == "throughput" else "torch") or {}
        ratios = {way: found["seconds"]["median"] / ours for way, found in others.items()}
        what = f"{SECTIONS[kind].lower()} of {about['network']} in {about['precision']}"
        return [f"{what}: {way} takes {ratio:.2f} of our time" for way, ratio in ratios.items() if ratio < 1]
    if kind == "overhead":
        rows = [row for row in result["rows"] if row["ratio"] is not None and row["ratio"] < 1]
        names = [", ".join(filter(None, (row["solver"], row["generator"]))) for row in rows]
        return [f"a step of {name}: {row['ratio']:.2f} of our time" for name, row in zip(names, rows, strict=True)]
    if kind == "pareto":
        rows = [row for row in result["summary"] if row["median"] > 1]
        return [f"at {row['budget']} evaluations ours needs {row['median']:.2f} times as many" for row in rows]
    return []


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for folder, device in DEVICES.items():
        found = read(RESULTS / folder)
        if not any(found.values()):
            continue
        lines += ["", f"## {device}"]
        for kind, title in SECTIONS.items():
            if found[kind]:
                lines += ["", f"### {title}"]
            for result in found[kind]:
                lines += entry(kind, result)
            if kind == "pareto" and found[kind]:
                lines += ["", "![Error against network evaluations, both sides, and their fronts](pictures/pareto.png)"]
        slower = [line for kind, results in found.items() for result in results for line in behind(kind, result)]
        lines += ["", "### Where the peer is ahead", ""]
        lines += [f"- {line}" for line in slower] or ["Nowhere in these tables."]
    return "\n".join(lines) + "\n"


def main() -> None:
    PAGE.write_text(page())
    print(PAGE)


if __name__ == "__main__":
    main()
