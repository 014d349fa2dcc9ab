"""The benchmarks of speed: what they count is right, and they run, with the peer where it is installed."""

import argparse
import importlib.util
import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    ceilings,
    overhead,
    page,
    pareto,
    pareto_fronts,
    parts,
    racing,
    scaling,
    solvers,
    throughput,
    train,
)
from benchmarks import compile as compilation
from benchmarks.ceilings import SIDE, convolution_flops
from benchmarks.flops import of
from benchmarks.subjects import CONFIGS, subject
from benchmarks.timing import compiled, repeated, spread
from experiments import pretrained
from jaxdiff import networks

HAS_PEER = importlib.util.find_spec("diffusers") is not None


def test_a_program_is_counted_and_timed():
    a, b = jnp.ones((64, 32)), jnp.ones((32, 16))
    program = compiled(jax.jit(jnp.matmul), a, b)
    np.testing.assert_array_equal(program.run(a, b), 32 * np.ones((64, 16)))
    assert program.flops == 2 * 64 * 32 * 16
    assert program.memory >= 4 * (64 * 32 + 32 * 16 + 64 * 16)
    assert program.lower_seconds > 0 and program.compile_seconds > 0
    calls = []
    assert len(repeated(lambda: calls.append(1), 3, warm_up=2)) == 3 and len(calls) == 5
    assert spread([3.0, 1.0, 2.0, 5.0, 4.0]) == {"q1": 2.0, "median": 3.0, "q3": 4.0}
    assert spread([7.0]) == {"q1": 7.0, "median": 7.0, "q3": 7.0}


def test_flops_of_a_convolution_are_those_of_its_taps():
    """The gradient of the sum of all outputs by an input of ones counts the taps that reach each pixel."""
    ones, kernel = jnp.ones((1, SIDE, SIDE, 1)), jnp.ones((3, 3, 1, 1))
    taps = jax.lax.conv_general_dilated(ones, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")).sum()
    assert convolution_flops(5) == 2 * 5 * float(taps) * 128**2


CONVOLUTIONS = {
    "strided": {"window_strides": (2, 1), "padding": ((1, 1), (0, 2))},
    "dilated": {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 1)},
    "transposed": {"window_strides": (1, 1), "padding": ((2, 1), (1, 2)), "lhs_dilation": (2, 3)},
    "in groups": {"window_strides": (1, 2), "padding": "SAME", "feature_group_count": 2},
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_each_flop_of_a_convolution_of_ones_adds_one_half(options):
    ones, kernel = jnp.ones((2, 9, 7, 4)), jnp.ones((3, 3, 4 // options.get("feature_group_count", 1), 6))
    convolve = lambda x, k: jax.lax.conv_general_dilated(
        x, k, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    ).sum()
    forward = 2 * float(convolve(ones, kernel))
    assert of(convolve, ones, kernel) == forward
    assert of(jax.value_and_grad(convolve, (0, 1)), ones, kernel) == 3 * forward


def test_flops_of_loops_and_branches():
    a = jnp.ones((8, 8))
    one = 2 * 8**3
    assert of(lambda a: jax.lax.scan(lambda x, _: (x @ a, None), a, None, length=5)[0], a) == 5 * one
    assert of(lambda a: jax.lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, lambda a: a, a), a) == 2 * one
    assert of(jax.jit(jax.checkpoint(lambda a: a @ a)), a) == one
    assert of(lambda a: jnp.einsum("bij,bkj->bik", a[None], a[None]), a) == one


@pytest.mark.gpu
def test_fused_attention_counts_like_its_products():
    q = jnp.ones((2, 128, 4, 64), jnp.bfloat16)
    ways = (partial(jax.nn.dot_product_attention, implementation=name) for name in ("xla", "cudnn"))
    assert len({of(attend, q, q, q) for attend in ways}) == 1


@pytest.mark.parametrize(
    ("name", "millions"), [("dit-s", 33), ("dit-b", 130), ("dit-xl", 675), ("unet-ddpm", 35.7)]
)  # arXiv 2212.09748, table 1; 2006.11239, app. B
def test_networks_have_the_published_numbers_of_parameters(name, millions):
    init, _ = networks.functional(pretrained.architecture(CONFIGS[name]))
    shapes = jax.eval_shape(init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(count / 1e6 / millions - 1) < 0.015


def test_precision_is_that_of_the_computation():
    given = subject("dit-mini", "bfloat16")
    args = (given.params, jnp.ones((1, *given.shape)), jnp.float32(0.5), jnp.zeros(1, int))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(given.params))
    assert "bf16" in jax.jit(given.apply).lower(*args).as_text()


def test_the_overhead_of_each_solver_and_generator():
    rows = overhead.measure((2, 4, 4, 3), steps=3, repeats=2, peer=False)
    assert [row["solver"] for row in rows] == ["ddim", "euler", "dpmpp2m", "unipc", *["ancestral"] * 3]
    assert all(row["jaxdiff"]["median"] > 0 and row["diffusers"] is None for row in rows)
    assert len(overhead.table({"rows": rows}).splitlines()) == len(rows) + 2


def test_parts_of_networks(monkeypatch):
    for name, value in {"CHANNELS": ((4, 8),), "SIDE": 4, "TOKENS": 4, "WIDTH": 8, "HEADS": 2}.items():
        monkeypatch.setattr(parts, name, value)
    monkeypatch.setattr(ceilings, "measure", lambda precision: dict.fromkeys(("product", "convolution", "copy"), 1e9))
    result = {"about": {"precision": "float32", "batch": 2}, **parts.measure(2, "float32", 2)}
    convolution, linear, *_, block, attention, mlp = result["parts"].values()
    assert convolution["flops"] == 2 * 2 * 4 * 8 * (3 * 4 - 2) ** 2 and linear["flops"] == 2 * 2 * 4 * 8 * 32
    assert all(part["gradient_flops"] == 3 * part["flops"] for part in (convolution, linear))
    # The map of the embedding to six rows is the block's alone.
    assert block["flops"] == attention["flops"] + mlp["flops"] + 2 * 2 * 8 * 48
    assert all(part["cores"] > 0 and part["gradient_seconds"]["median"] > 0 for part in result["parts"].values())
    assert len(parts.table(result).splitlines()) == len(result["parts"]) + 4


def test_the_page_of_benchmarks_is_that_of_the_committed_figures():
    assert page.PAGE.read_text() == page.page(), "make it anew: python -m benchmarks.page"


def test_the_page_says_where_the_peer_is_ahead():
    of = lambda seconds: {"seconds": {"median": seconds}}
    about = {"network": "dit-s", "precision": "float32"}
    result = {"about": about, "jaxdiff": of(1.0), "diffusers": {"eager": of(2.0), "compile": of(0.8)}}
    assert page.behind("throughput", result) == ["sampling of dit-s in float32: compile takes 0.80 of our time"]


def test_throughput_refuses_what_cannot_be_raced(capsys, monkeypatch):
    for flags, message in {
        "--network resnet": "--network must be dit-mini",
        "--network tests --precision float32": "--precision is for named networks",
        "--flash": "--flash is for named networks with --precision bfloat16",
        "--batch 0": "must be at least 1",
        "--solver heun --peer diffusers": "races named networks by ddim, euler, dpmpp2m and unipc",
    }.items():
        monkeypatch.setattr(sys, "argv", ["throughput", *flags.split()])
        with pytest.raises(SystemExit):
            throughput.main()
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("there", [True, False])
def test_a_peer_races_where_it_is_installed(there, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if there else None)
    parser = argparse.ArgumentParser()
    assert racing.with_peer(parser, None) is there
    assert capsys.readouterr().err == ("" if there else "PyTorch or diffusers is not installed: no peer\n")
    assert not racing.with_peer(parser, "none")
    assert capsys.readouterr().err == ""
    if there:
        assert racing.with_peer(parser, "diffusers")


def test_a_peer_that_is_not_installed_and_was_asked_for_is_refused(capsys, monkeypatch, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "diffusers" else find_spec(name))
    for program, peer in ((throughput, "diffusers"), (train, "torch"), (overhead, "diffusers"), (pareto, "diffusers")):
        monkeypatch.setattr(sys, "argv", ["benchmark", "--peer", peer, "--json", str(tmp_path / "j")])
        with pytest.raises(SystemExit) as stopped:
            program.main()
        assert stopped.value.code == 2
        assert capsys.readouterr().err.endswith(f"--peer {peer} needs PyTorch and diffusers: pip install .[bench]\n")


def test_a_run_that_is_not_there_is_refused_before_anything_is_measured(capsys, monkeypatch, tmp_path):
    empty = str(tmp_path)
    for program, flags in (
        (throughput, ["--network", empty]),
        (pareto, ["--run", empty, "--json", f"{empty}/j", "--peer", "none"]),
        (solvers, ["--run", empty, "--json", f"{empty}/j"]),
    ):
        monkeypatch.setattr(sys, "argv", ["benchmark", *flags])
        with pytest.raises(SystemExit) as stopped:
            program.main()
        printed = capsys.readouterr()
        assert stopped.value.code == 2 and printed.out == ""
        assert printed.err == f"error: needed a run directory with a config.json, got {empty}; train one: " + (
            "python -m experiments.train digits\n"
        )


def test_a_front_and_the_evaluations_it_needs():
    point = lambda nfe, error: {"nfe": nfe, "error": error}
    points = [point(4, 1.0), point(8, 0.25), point(8, 0.5), point(16, 0.3), point(16, 0.0625), point(5, float("nan"))]
    assert pareto_fronts.front(points) == [point(4, 1.0), point(8, 0.25), point(16, 0.0625)]
    for error, nfe in ((2.0, 4), (1.0, 4), (0.25, 8), (0.125, 8 * 2**0.5), (0.01, float("inf"))):
        assert pareto_fronts.needed(points, error) == pytest.approx(nfe)
    # Errors fall as nfe^-2, and the other side's are 4 times ours: it needs twice as many.
    ours, theirs = ([point(n, scale * n**-2.0) for n in pareto.BUDGETS] for scale in (1.0, 4.0))
    rows = pareto_fronts.compare(ours, theirs)
    assert [row["budget"] for row in rows] == list(pareto.BUDGETS)
    assert all(row["ratio"] == pytest.approx(0.5, abs=1e-6) for row in rows if row["budget"] >= 8)
    assert all(row["ratio"] == pytest.approx(2) for row in pareto_fronts.compare(theirs, ours) if row["budget"] <= 50)


def test_a_table_of_fronts_with_a_peer_and_without():
    point = lambda nfe, error: {"solver": "DDIM", "grid": "karras", "nfe": nfe, "error": error}
    ours, theirs = [point(4, 0.5), point(12, float("nan")), point(10, 0.1)], [point(5, 0.7), point(10, 0.2)]
    assert pareto_fronts.best_within(ours) == {budget: ours[0] if budget < 10 else ours[2] for budget in pareto.BUDGETS}
    case = {"floor": 1e-6, "jaxdiff": ours}
    alone = pareto_fronts.table({"summary": [], "cases": {"mixture 0": case}}).splitlines()
    assert alone[1] == "mixture 0, two fine solutions differ by 1.0e-06" and len(alone) == 5 + len(pareto.BUDGETS)
    assert alone[5] == "| 4 | DDIM, karras | 5.00e-01 |" and alone[-1] == "| 100 | DDIM, karras | 1.00e-01 |"
    cases = {"mixture 0": case | {"compared": pareto_fronts.compare(ours, theirs), "pairs": {"DDIM": 2e-6}}}
    both = pareto_fronts.table({"summary": pareto_fronts.summary(cases), "cases": cases})
    assert "| 5 | DDIM, karras | 5.00e-01 | DDIM, karras | 7.00e-01 | 0.80 |" in both
    assert "at equal error, median" in both and both.endswith("at most 2.0e-06 apart (DDIM)")


def test_mixtures_of_the_pareto_benchmark_are_unlike_and_of_about_unit_variance():
    laws = [pareto.mixture(seed) for seed in pareto.SEEDS]
    for law in laws:
        assert 0.4 < np.trace(law.covariance) / pareto.DIMENSIONS < 2
    assert len({float(law.means[0, 0]) for law in laws}) == len(pareto.SEEDS)


def test_exponents_of_exact_power_laws_and_of_noisy_ones():
    sizes = (16, 32, 64, 128)
    exact = np.outer(np.asarray(sizes, float) ** 1.5, np.ones(5)) * 1e-3
    found = scaling.exponent(sizes, exact)
    assert found == pytest.approx({"exponent": 1.5, "low": 1.5, "high": 1.5})
    hits = 0
    for seed in range(40):
        noise = np.exp(0.05 * np.random.default_rng(seed).standard_normal(exact.shape))
        found = scaling.exponent(sizes, exact * noise)
        hits += found["low"] <= 1.5 <= found["high"]
    assert hits >= 32  # of 95 %, less what a bootstrap of five repeats is narrow by


@pytest.mark.slow
def test_knobs_that_are_arguments_compile_nothing():
    programs = {row["change"]: row["programs"] for row in compilation.knobs()}
    assert programs.pop("the first call") == 1
    swept = [name for name in programs if name.startswith("steps")]
    assert [programs.pop(name) for name in swept] == [0, len(compilation.SWEEP)]
    assert programs.pop("another batch size") == 1 and programs.pop("another solver") == 1
    assert set(programs.values()) == {0} and len(programs) == 6


@pytest.mark.slow
def test_scaling_along_an_axis(monkeypatch):
    monkeypatch.setitem(scaling.BASE, "width", 8)
    found = scaling.along("steps", (2, 4, 8), 2)
    assert len(found["seconds"]) == 3 and len(set(found["memory_bytes"])) <= 3 and found["low"] <= found["high"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's compiler about PyTorch
@pytest.mark.parametrize("peer", ["none", pytest.param("race", marks=pytest.mark.skipif(not HAS_PEER, reason="bench"))])
def test_throughput_and_training_report_all_figures(peer, tmp_path, capsys, monkeypatch):
    for module, other in ((throughput, "diffusers"), (train, "torch")):
        name = tmp_path / f"{other}.json"
        flags = ["--network", "dit-mini", "--batch", "1", "--repeats", "2", "--json", str(name)]
        flags += ["--steps", "2"] if module is throughput else []
        monkeypatch.setattr(sys, "argv", ["bench", *flags, "--peer", other if peer == "race" else "none"])
        module.main()
        result = json.loads(name.read_text())
        assert result["jaxdiff"]["seconds"]["median"] > 0 and "dit-mini" in capsys.readouterr().out
        assert (other in result) is (peer == "race")
        if peer == "race" and module is throughput:
            assert result["difference"] < 1e-3 and result["spread_of_samples"] > 0.1
