"""Bytes counted in compiled programs, against programs whose communication is known; and docs/scaling.md, which shows
them, against the results."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from benchmarks import collectives, layouts, slices

ROOT = Path(__file__).resolve().parents[1]

SIZE = 4 * 64 * 32
"""Bytes of the array on each of four devices."""
NEXT = [(i, (i + 1) % 4) for i in range(4)]
OPERATIONS = {
    "all-reduce": (lambda x: jax.lax.psum(x, "a"), 2 * 3 / 4 * SIZE),
    "all-gather": (lambda x: jax.lax.all_gather(x, "a"), 3 * SIZE),
    "reduce-scatter": (lambda x: jax.lax.psum_scatter(x, "a", tiled=True), 3 / 4 * SIZE),
    "all-to-all": (lambda x: jax.lax.all_to_all(x, "a", 0, 0, tiled=True), 3 / 4 * SIZE),
    "collective-permute": (lambda x: jax.lax.ppermute(x, "a", NEXT), SIZE),
}


def text(f, *, axes=(4,), names=("a",)):
    devices = np.array(jax.devices()[: np.prod(axes)]).reshape(axes)
    spec = PartitionSpec(names)
    mapped = jax.shard_map(f, mesh=Mesh(devices, names), in_specs=spec, out_specs=spec, check_vma=False)
    return jax.jit(mapped).lower(jnp.zeros((64 * devices.size, 32))).compile().as_text()


@pytest.mark.parametrize("kind", OPERATIONS)
def test_bytes_of_one_operation(kind):
    f, size = OPERATIONS[kind]
    assert collectives.sent(text(f), 4) == {kind: size}
    assert collectives.count(text(f), 4) == {kind: 1}


def test_a_loop_counts_as_often_as_it_runs():
    step = lambda x, _: (jnp.sin(jax.lax.psum(x, "a")), None)
    loop = lambda x: jax.lax.scan(step, x, None, length=7)[0]
    assert collectives.sent(text(loop), 4) == {"all-reduce": 7 * 2 * 3 / 4 * SIZE}


def test_groups_are_smaller_than_the_mesh():
    for axis, size in (("a", 4), ("b", 2)):
        program = text(functools.partial(jax.lax.psum, axis_name=axis), axes=(4, 2), names=("a", "b"))
        assert collectives.sent(program, 8) == {"all-reduce": 2 * (size - 1) / size * SIZE}


def test_without_communication_there_is_none():
    assert collectives.sent(text(jnp.sin), 4) == {}


HEADER = "ENTRY %main (p: f32[8]) -> f32[8] {\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%x = (f32[8]{0}, bf16[4,2]{1,0:T(8,128)(2,1)}) all-reduce(%p, %q), replica_groups={{0,1},{2,3}}", 32 + 16),
        ("%x = (f32[8]{0}, f32[32]{0}) all-gather-start(%p), replica_groups=[1,4]<=[4]", 3 / 4 * 128),
        ("%x = (f32[8]{0}, f32[8]{0}) collective-permute-start(%p), source_target_pairs={{0,1},{1,2}}", 32 / 2),
        ("ROOT %x = f32[8]{0} all-reduce-start(%p), replica_groups=mesh['i'=2,'j'=8] {'j':(1)4}", 2 * 3 / 4 * 32),
        ("%x = f32[8]{0} all-reduce-done(%p)", 0),
        ("%x = f32[8]{0} add(%all-reduce.1, %p)", 0),
    ],
)
def test_ways_to_write_an_operation(line, expected):
    assert sum(collectives.sent(f"{HEADER}  {line}\n}}\n", 4).values()) == expected


PAGE = ROOT / "docs/scaling.md"


@pytest.mark.parametrize("name", ["dit", "unet"])
def test_the_page_shows_the_measured_tables(name):
    rows = json.loads((ROOT / "benchmarks/results/layouts.json").read_text())[name]["rows"]
    assert layouts.table(rows) in PAGE.read_text()


def test_the_page_shows_the_compiled_slices():
    rows = json.loads((ROOT / "benchmarks/results/slices.json").read_text())
    assert slices.table(rows) in PAGE.read_text()


def test_what_was_measured_is_what_is_promised():
    """Data parallelism sends what theory says, FSDP holds at most 1.2 / n of parameters and optimiser."""
    measured = json.loads((ROOT / "benchmarks/results/layouts.json").read_text())
    for row in (row for part in measured.values() for row in part["rows"]):
        if row["layout"] in ("pmap", "data"):
            np.testing.assert_allclose(row["sent_total"], row["predicted_bytes"], rtol=1e-3)
        if row["layout"] == "fsdp":
            assert row["state_share"] <= 1.2 / row["devices"]
