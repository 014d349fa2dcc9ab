"""The pages are true: links lead somewhere, code blocks run, formulas are linked to the functions that are them."""

import contextlib
import functools
import json
import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import SOLVERS, STOCHASTIC

from jaxdiff import Discrete, Gaussian, predictions, sample, schedules, solvers

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
RUN = [page for page in PAGES if page.name == "README.md" or page.parent != ROOT]
STATISTICS = ("mean_square", "kurtosis", "near_a_point")
THEORY, OWN_SOLVER, SOLVER_PAGE = (ROOT / f"docs/{page}.md" for page in ("theory", "own_solver", "solvers"))

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?:\[([^\[\]]*))?\]\(([^)\s]+)[^)]*\)")  # no label: the link around a picture
TAG = re.compile(r"""<(?:img|a)\s[^>]*?(?:src|href)=["']([^"']+)["']""")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[int, str]]:
    """The first line's number and the code of each python block."""
    text = page.read_text()
    return [(text.count("\n", 0, m.start(2)) + 1, m[2]) for m in FENCE.finditer(text) if m[1] == "python"]


@functools.cache
def namespace(page: Path) -> dict:
    """What the python blocks of a page leave behind, run in order in a temporary directory."""
    names = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for line, code in blocks(page):
            # Empty lines in front, so that a traceback shows the line of the page.
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)
    return names


def links(page: Path) -> list[tuple[str, str]]:
    """`(text, target)` of the relative links outside code, without the anchors."""
    text = FENCE.sub("", page.read_text())
    found = [(m[1] or "", m[2]) for m in LINK.finditer(text)] + [("", m[1]) for m in TAG.finditer(text)]
    relative = [(label, target.partition("#")[0]) for label, target in found if not re.match(r"\w+:|//", target)]
    return [(label, target) for label, target in relative if target]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_point_to_existing_files(page):
    missing = [target for _, target in links(page) if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", RUN, ids=name)
def test_python_blocks_run(page):
    namespace(page)


def test_the_readme_shows_the_library_in_twenty_lines():
    examples = [code for _, code in blocks(ROOT / "README.md") if "import jaxdiff" in code or "from jaxdiff" in code]
    assert examples, "README.md needs a ```python block that uses the library"
    assert len([line for line in examples[0].splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_linked_to_python_files_are_defined_there(page):
    """`[`Class.method`](file.py)`: each part of the name is a class, a function or a constant of that file."""
    for label, target in links(page):
        if not target.endswith(".py") or not re.fullmatch(r"`[\w.]+`", label):
            continue
        source = (page.parent / target).read_text()
        for part in label.strip("`").split("."):
            defined = rf"^\s*(def|class) {part}\b|^{part}\b.* = "
            module = part == Path(target).stem  # a recipe is called by the name of its file
            assert module or re.search(defined, source, re.MULTILINE), f"{label} is not defined in {target}"


def test_each_formula_is_linked_to_its_function():
    """After each displayed formula of the theory, before the next one or the next heading, stands a link to code."""
    text = FENCE.sub("", THEORY.read_text())
    formulas = text.split("$$")
    assert len(formulas) % 2 == 1
    for formula, after in zip(formulas[1::2], formulas[2::2], strict=True):
        section = re.split(r"^#", after, maxsplit=1, flags=re.MULTILINE)[0]
        assert re.search(r"\[`[\w.]+`\]\(\.\./jaxdiff/[\w/]+\.py\)", section), formula


def test_theory_tables_are_what_the_library_computes():
    """The columns of the two schedule and prediction tables, in NumPy's float64, against the functions."""
    t = np.linspace(0.05, 0.95, 7)
    u, s = -2 + 5 * t, lambda u: 1 / (1 + np.exp(-u / 0.7))
    decay = lambda t: np.exp(-19.9 / 4 * t**2 - 0.1 / 2 * t)
    left = (decay(t) - decay(1)) / (1 - decay(1))
    with jax.enable_x64(True):
        rows = {
            schedules.Cosine(): -2 * np.log(np.tan(np.pi * t / 2)),
            schedules.RectifiedFlow(): 2 * np.log((1 - t) / t),
            schedules.LinearBeta(): -np.log(np.exp(2 * (19.9 / 4 * t**2 + 0.1 / 2 * t)) - 1),
            schedules.VarianceExploding(): -2 * np.log(0.002 * ((1 + 80 / 0.002) ** t - 1)),
            schedules.EDM(): -2 * np.log(80 * t),
            schedules.Sigmoid(start=-2.0, end=3.0, tau=0.7): np.log((s(3) - s(u)) / (s(u) - s(-2))),
            schedules.ZeroTerminalSNR(base=schedules.LinearBeta()): -np.log(left**-2 - 1),
            schedules.Shifted(base=schedules.RectifiedFlow(), shift=3.0): 2 * np.log((1 - t) / t) - 2 * np.log(3),
        }
        for schedule, logsnr in rows.items():
            np.testing.assert_allclose(schedules.logsnr(schedule, jnp.asarray(t)), logsnr, rtol=1e-9, atol=1e-9)
            (alpha, sigma), (d_alpha, d_sigma) = schedules.rates(schedule, jnp.asarray(t))
            c = jnp.sqrt((0.5 * alpha) ** 2 + sigma**2)
            determinants = {
                predictions.x0(): -sigma,
                predictions.eps(): alpha,
                predictions.v(): alpha**2 + sigma**2,
                predictions.velocity(): alpha * d_sigma - sigma * d_alpha,
                predictions.score(): -alpha / sigma,
                predictions.edm(sigma_data=0.5): -c / 0.5,
            }
            for prediction, determinant in determinants.items():
                a, b = prediction(schedule, jnp.asarray(t))
                np.testing.assert_allclose(alpha * b - sigma * a, determinant, rtol=1e-9)


def test_only_the_bridge_denoises():
    """The example of the theory: the forward kernel in reversed order gives N(0, 1), bridge and denoiser the data."""
    names = namespace(THEORY)
    wrong, right, real = (np.array(numbers) for numbers in zip(*(names[key] for key in STATISTICS), strict=True))
    # Four standard errors of 10,000 draws of N(0, 1).
    assert (abs(wrong - [1, 3, 0.2904]) < [0.06, 0.2, 0.02]).all(), wrong
    assert (abs(right - real) < [0.01, 0.02, 0.01]).all(), (right, real)
    assert abs(np.corrcoef(names["wrong"][:, 0], names["start"][:, 0])[0, 1]) < 0.05
    assert names["bits"] == pytest.approx(3e-5, rel=0.1)


def test_the_numbers_in_the_theory_are_those_that_its_example_gives():
    text, names = THEORY.read_text(), namespace(THEORY)
    for row, key, scale in zip(("mean square", "kurtosis", "within 0.3"), STATISTICS, (1, 1, 100), strict=True):
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {row}")]
        shown = [float(number) for number in re.findall(r"[\d.]+(?= %? ?\|)", line)][:3]
        np.testing.assert_allclose(shown, scale * np.array(names[key]), atol=0.06 * (1 if scale == 1 else 10))


def test_own_solver_is_short_and_imports_no_solver_of_the_library():
    (code,) = [code for _, code in blocks(OWN_SOLVER) if "class MyHeun" in code]
    assert len(code.splitlines()) < 25
    assert "solvers" not in code


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_own_solver_agrees_with_the_library(end):
    names, grid = namespace(OWN_SOLVER), jnp.linspace(1, end, 12)
    run = lambda solver: sample(
        jax.random.key(0), names["process"], names["denoise"], solver, grid, spec=jax.ShapeDtypeStruct((16, 2), "f4")
    )
    (x, info), (expected, expected_info) = run(names["MyHeun"]()), run(solvers.Heun())
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)
    assert int(info.nfe) == int(expected_info.nfe)


def test_own_solver_page_measures_order_two():
    names = namespace(OWN_SOLVER)
    assert names["order"] == pytest.approx(2, abs=0.15)
    assert f"`info.nfe` is {int(names['info'].nfe)}" in OWN_SOLVER.read_text()


WRAPPED = {
    "Restart": solvers.Restart(inner=solvers.Heun(), low=0.3, high=0.6, times=3, steps=2),
    "PredictorCorrector": solvers.PredictorCorrector(inner=solvers.DDIM(), corrections=2),
    "Memory": solvers.Memory(inner=solvers.DPMpp2M(), start=jnp.zeros_like),
    "Each": solvers.Each(parts=(solvers.DDIM(), solvers.Ancestral())),
    "BlockDiffusion": solvers.BlockDiffusion(inner=solvers.Ancestral(), block=2),
}
OF_MASKS = ("FirstHitting", "Confidence", "ReMDM")  # each draws, which tests/test_token_solvers.py sees


def solver_rows() -> dict[str, list[str]]:
    """The rows of the tables of all solvers: name, and the cells behind it."""
    rows = re.findall(r"^\| \[`(\w+)`\]\(\.\./jaxdiff/solvers/\w+\.py\)[^|]*\| (.*) \|$", SOLVER_PAGE.read_text(), re.M)
    return {name: cells.split(" | ") for name, cells in rows}


def test_each_solver_has_one_row():
    assert sorted(solver_rows()) == sorted(solvers.__all__)


@pytest.mark.parametrize("name", solvers.__all__)
def test_solver_rows_are_what_the_classes_say(name):
    """Order, calls on grids that end at the data and in noise, history; who draws noise is in the conformance list."""
    order, to_data, to_noise, stochastic, history, _ = solver_rows()[name]
    solver = WRAPPED.get(name) or getattr(solvers, name)()
    inner = getattr(solver, "inner", None) or getattr(solver, "parts", (None,))[0]
    taken = order in ("inner's", "the smallest of its parts'")
    assert solver.order == (inner.order if taken else int(re.match(r"\d+", order)[0]))
    for formula, end in ((to_data, 0.0), (to_noise, 0.1)):
        if formula == "counted":
            with pytest.raises(ValueError, match=r"info\.nfe"):
                solver.nfe(jnp.linspace(1, end, 5))
            continue
        for n in (4, 9):  # enough steps for Restart to be passed
            grid = jnp.linspace(1, end, n + 1)
            code = re.sub(r"(?<=\w) (?=[\w(])", "*", re.sub(r"(\d)n", r"\1*n", formula.strip("`")))
            names = {field: getattr(solver, field, 0) for field in ("times", "steps", "corrections")}
            assert int(solver.nfe(grid)) == eval(code, {"n": n, "inner": inner and int(inner.nfe(grid)), **names}), n
    if inner is None:
        draws = {type(SOLVERS[entry]).__name__ for entry in STOCHASTIC}
        assert (stochastic != "no") == (name in draws or name in OF_MASKS)
        start = Gaussian(schedule=schedules.Cosine()), jnp.zeros((1, 2))
        start = (Discrete.masked(3), jnp.zeros((1, 2), jnp.int32)) if name in OF_MASKS else start
        state = solver.init(*start, jnp.linspace(1, 0, 5))
        kept = getattr(getattr(state, "history", state), "values", ())
        assert len(kept) == int(re.match(r"\d+", history)[0])


def test_measured_solver_errors_are_those_of_the_results():
    """The recommendation and the table of the digits: each number as the committed JSON has it."""
    measured = json.loads((ROOT / "benchmarks/results/solvers.json").read_text())["digits"]["solvers"]
    page, number = SOLVER_PAGE.read_text(), lambda cell: float(cell) if cell.strip() else None
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \| [^|]+ \|$", page, re.MULTILINE)
    assert {name for name, _ in rows} == set(measured) - {"Adaptive"}
    first = re.findall(r"^\| [^|`]+ `solvers\.(\w+)\(\)` \| (.*) \|$", page, re.MULTILINE)
    assert len(first) >= 3
    for keys, found in ((("median", "rms", "law"), rows), (("median", "rms"), first)):
        for name, cells in found:
            points = {point["budget"]: point for point in measured[name]}
            expected = [points.get(budget, {}).get(key) for key in keys for budget in (10, 20, 50)]
            shown = [number(cell) for cell in cells.split("|")]
            assert [value is None for value in shown] == [value is None for value in expected], name
            pairs = [pair for pair in zip(shown, expected, strict=True) if None not in pair]
            np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=6e-3, err_msg=name)
