"""The layers of the library: import contracts, what an import loads, and that it touches no device."""

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOAD_EVERYTHING = """
import importlib, pkgutil, sys
import jaxdiff
for module in pkgutil.walk_packages(jaxdiff.__path__, "jaxdiff."):
    importlib.import_module(module.name)
"""
# Flax and JAX themselves load absl, etils, msgpack, rich, treescope, yaml and cloudpickle (Flax 0.12, JAX 0.10-0.12),
# but none of these, Orbax included: they belong to `experiments`, `benchmarks` and the tests.
FOREIGN = (
    *("experiments", "benchmarks", "orbax", "tensorstore", "tensorflow", "tensorflow_datasets", "grain"),
    *("array_record", "tyro", "torch", "diffusers", "matplotlib", "sklearn", "scipy", "pandas", "PIL"),
    *("tensorboardX", "tqdm", "jinja2", "equinox", "diffrax", "beartype", "chex"),
)


def python(code: str) -> str:
    """What a fresh interpreter prints, run from the root of the repository with warnings as errors."""
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_import_contracts_hold():
    """The layers of `pyproject.toml`, one way only."""
    linter = shutil.which("lint-imports", path=sysconfig.get_path("scripts")) or shutil.which("lint-imports")
    if linter is None:
        pytest.skip("import-linter is not installed")
    run = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_library_loads_nothing_of_the_experiments():
    loaded = python(f"{LOAD_EVERYTHING}\nprint(*(name for name in {FOREIGN} if name in sys.modules))")
    assert loaded.split() == []


def test_the_check_would_notice():
    assert (
        python(f"import jaxdiff, sys, experiments\nprint(*(n for n in {FOREIGN} if n in sys.modules))") == "experiments"
    )


def test_an_import_initialises_no_backend():
    """The number of CPU devices can be chosen only before a backend starts; afterwards JAX refuses."""
    choose = 'import jax\njax.config.update("jax_num_cpu_devices", 3)\nprint(jax.device_count("cpu"))'
    assert python(f"{LOAD_EVERYTHING}\n{choose}") == "3"
    with pytest.raises(AssertionError, match="before backends are initialized"):
        python(f"import jax.numpy as jnp\njnp.zeros(1)\n{choose}")


def test_installing_the_library_alone_asks_for_five_packages():
    """What `pip install .` brings, and that the wheel holds the library and nothing else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in project["project"]["dependencies"]}
    assert names == {"jax", "flax", "optax", "numpy", "jaxtyping"}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["jaxdiff"]
    imported = set()
    for path in (ROOT / "jaxdiff").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {module.split(".")[0] for module in modules}
    assert imported - set(sys.stdlib_module_names) <= names | {"jaxdiff"}
