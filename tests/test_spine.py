"""Pictures, tokens and mixed data go through the same functions: no second copy of any of them exists."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxdiff
from jaxdiff import grids, likelihood, solvers

ROOT = Path(__file__).parents[1]
TREES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for package in ("jaxdiff", "experiments", "benchmarks")
    for path in sorted((ROOT / package).rglob("*.py"))
}
NODES = [(name, node) for name, tree in TREES.items() for node in ast.walk(tree)]


def functions(name):
    """The files that define a function, not a method, of that name."""
    return [
        file
        for file, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]


def calls(name):
    """The files that call a function or method of that name, once for each call."""
    called = lambda node: getattr(node.func, "attr", getattr(node.func, "id", None))
    return [file for file, node in NODES if isinstance(node, ast.Call) and called(node) == name]


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("sample", "jaxdiff/sampling.py"),
        ("make_step", "jaxdiff/training.py"),
        ("denoising", "jaxdiff/training.py"),
        ("elbo", "jaxdiff/likelihood/bound.py"),
        ("run", "experiments/train.py"),
    ],
)
def test_each_is_defined_once(name, home):
    assert functions(name) == [home]


def test_one_scan_over_the_grid_of_a_sampler():
    """`sampling.py` alone loops over times and calls solvers; solvers call the solvers that they are made of."""
    assert calls("scan").count("jaxdiff/sampling.py") == 1
    looping = {*calls("scan"), *calls("fori_loop"), *calls("while_loop")}
    methods = [(file, n) for file, n in NODES if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    wrappers = ("jaxdiff/solvers/", "jaxdiff/conditioning/", "jaxdiff/guidance/")  # solvers, and those around solvers
    stepping = {file for file, n in methods if n.func.attr == "step" and not file.startswith(wrappers)}
    assert looping & stepping == {"jaxdiff/sampling.py"}
    # The other loops: trials and events within one step, rows of a batch or of steps, integrals, roots, slices.
    others = {
        "networks/convolution.py",
        "training.py",
        "likelihood/density.py",
        "likelihood/divergence.py",
        "grids/in_time.py",
        "grids/optimized.py",
    }
    inside = {file for file in looping if file.startswith(wrappers)}
    assert looping - inside == {"jaxdiff/sampling.py"} | {f"jaxdiff/{file}" for file in others}


def test_one_place_of_the_experiments_makes_the_step_and_draws():
    own = lambda name: [file for file in calls(name) if file.startswith("experiments/")]
    assert own("make_step") == ["experiments/model.py"]
    assert own("elbo") == ["experiments/bounds.py"]
    drawing = {file for file, n in NODES if isinstance(n, ast.Attribute) and ast.unparse(n) == "jaxdiff.sample"}
    assert {file for file in drawing if file.startswith("experiments/")} == {
        "experiments/model.py",
        # Denoisers that are not the model's own: given a measurement, a layout, a picture to change, or from elsewhere.
        "experiments/restoration/methods.py",
        "experiments/composition/composing.py",
        "experiments/editing.py",
        "experiments/pretrained/sampling.py",
    }


PROCESSES = {
    "numbers": jaxdiff.Gaussian(schedule=jaxdiff.schedules.Cosine()),
    "masks": jaxdiff.Discrete.masked(3),
    "uniform": jaxdiff.Discrete.uniform(3),
    "ordinal": jaxdiff.Ordinal.gaussian(3, beta=1.0),
}


@pytest.mark.parametrize("kind", PROCESSES)
def test_the_same_calls_train_bound_and_sample(kind):
    process = PROCESSES[kind]
    numbers = kind == "numbers"
    x0 = jnp.zeros((4, 2)) if numbers else jnp.zeros((4, 2), jnp.int32)
    # A network of one number: a table of logits, or a shift of its input.
    apply = lambda params, x, t, cond=None, *, s=None, key=None: (
        x * params["w"] if numbers else jnp.broadcast_to(params["w"] * jnp.eye(3)[0], (*x.shape, 3))
    )
    step = jaxdiff.make_step(process, apply, optax.sgd(0.1))
    state = jaxdiff.TrainState.create({"w": jnp.ones(())}, optax.sgd(0.1))

    @jax.jit
    def all_of_it(key, state):
        state, metrics = step(state, key, {"x0": x0, "index": jnp.arange(4)})
        denoise = process.denoiser(jax.tree_util.Partial(apply, state.params))
        grid, spec = grids.uniform(process.schedule, 3), jax.ShapeDtypeStruct(x0.shape, x0.dtype)
        x, info = jaxdiff.sample(key, process, denoise, solvers.Ancestral(), grid, spec=spec)
        return metrics["loss"], likelihood.elbo(key, process, denoise, x0, draws=2), x, info.nfe

    loss, bound, x, nfe = all_of_it(jax.random.key(0), state)
    assert jnp.isfinite(loss) and jnp.isfinite(bound).all() and bound.shape == (4,)
    assert x.shape == x0.shape and x.dtype == x0.dtype and int(nfe) == 3
