"""Every conditioning method's posterior mean and covariance beside the exact ones, on laws with exact posteriors.

    python -m benchmarks.conditioning              measures; NumPy and JAX are enough
    python -m benchmarks.conditioning --redraw     the table again, from the JSON

A normal law and a mixture of three in four dimensions; measurements are two orthonormal combinations with noise, or two
of the four numbers without. Errors are |mean - exact| / sqrt(S) and |covariance - exact| / S, S the norm of the exact
covariance, of `--size` samples with `--steps` steps; those of the exact conditional denoiser are what steps and samples
cost by themselves. Prints a table in Markdown, that of docs/conditioning.md.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results_file
from benchmarks.progress import Progress
from jaxdiff import Gaussian, conditioning, grids, sample, schedules, solvers
from jaxdiff.conditioning import operators
from jaxdiff.oracles import GaussianMixture

D, NOISE = 4, 0.3
COVARIANCE = np.array([[1.0, 0.6, 0.2, 0.0], [0.6, 1.0, 0.3, 0.1], [0.2, 0.3, 0.5, 0.2], [0.0, 0.1, 0.2, 0.8]])
LAWS = {
    "normal": GaussianMixture(
        weights=jnp.ones(1), means=jnp.array([[0.5, -0.3, 0.2, 0.0]]), covariances=jnp.asarray(COVARIANCE)[None]
    ),
    "mixture": GaussianMixture(
        weights=jnp.array([0.5, 0.3, 0.2]),
        means=jnp.array([[1.5, 1.0, 0.0, 1.0], [-1.0, 1.0, 1.0, -1.0], [0.0, -1.5, -1.0, 0.5]]),
        covariances=0.25 * jnp.stack([jnp.asarray(c) for c in (COVARIANCE, COVARIANCE[::-1, ::-1], np.eye(D))]),
    ),
}
PROCESS = Gaussian(schedule=schedules.Cosine())
NOISY = operators.Projection.random(jax.random.key(1), (D,), 2)
SEEN = np.array([True, False, True, False])
Y, VALUE = jnp.array([0.8, -0.4]), jnp.array([1.5, 0.0, -0.5, 0.0])


def methods(law: Any, size: int) -> dict[str, dict[str, tuple[Any, Any]]]:
    """`{measurement: {method: (denoiser, solver)}}`."""
    plain, ddim, ancestral = law.denoiser(PROCESS.schedule), solvers.DDIM(), solvers.Ancestral()
    y, value, mask = (jnp.broadcast_to(a, (size, *a.shape)) for a in (Y, VALUE, jnp.asarray(SEEN)))
    exact = law.posterior(NOISY.matrix, Y, NOISE).denoiser(PROCESS.schedule)
    known = law.posterior(np.eye(D)[SEEN], VALUE[SEEN], 0.0).denoiser(PROCESS.schedule)
    hole = operators.Mask(mask=jnp.asarray(SEEN)[None])
    noisy = {"operator": NOISY, "y": y}
    mmps = lambda n: conditioning.MMPS(plain, NOISY, y, PROCESS, noise_std=NOISE, iterations=n)
    return {
        "two combinations, noise 0.3": {
            "exact denoiser": (exact, ddim),
            "MMPS, 2 iterations": (mmps(2), ddim),
            "MMPS, 1 iteration": (mmps(1), ddim),
            "PiGDM": (conditioning.PiGDM(plain, NOISY, y, PROCESS, noise_std=NOISE), ddim),
            "DDNM (takes y as exact)": (conditioning.DDNM(plain, NOISY, y), ddim),
            "DDNM+": (plain, conditioning.DDNMPlus(**noisy, noise_std=NOISE)),
            **{
                f"DPS, scale {s}": (plain, conditioning.DPS(inner=ancestral, **noisy, scale=s))
                for s in (0.03, 0.1, 0.3)
            },
            "unconditional": (plain, ddim),
        },
        "two of four, no noise": {
            "exact denoiser": (known, ddim),
            "MMPS, 2 iterations": (conditioning.MMPS(plain, hole, value, PROCESS, iterations=2), ddim),
            "PiGDM": (conditioning.PiGDM(plain, hole, value, PROCESS), ddim),
            "DDNM": (conditioning.DDNM(plain, hole, value), ddim),
            "replacement": (plain, conditioning.replacement(ddim, mask, value)),
            **{
                f"RePaint, {n} times": (plain, conditioning.RePaint(inner=ddim, mask=mask, value=value, times=n))
                for n in (5, 20, 80)
            },
            "unconditional": (plain, ddim),
        },
    }


def measure(size: int, steps: int) -> dict[str, Any]:
    grid, spec = grids.logsnr(PROCESS.schedule, steps), jax.ShapeDtypeStruct((size, D), jnp.float32)
    draw = jax.jit(sample, static_argnames=("spec",))
    rows: list[dict[str, Any]] = []
    say = Progress("conditioning", sum(len(m) for law in LAWS.values() for m in methods(law, 1).values()))
    for name, law in LAWS.items():
        posteriors = {
            "two combinations, noise 0.3": law.posterior(NOISY.matrix, Y, NOISE),
            "two of four, no noise": law.posterior(np.eye(D)[SEEN], VALUE[SEEN], 0.0),
        }
        for measurement, chosen in methods(law, size).items():
            exact = posteriors[measurement]
            scale = jnp.linalg.norm(exact.covariance)
            for method, (denoise, solver) in chosen.items():
                run = lambda: draw(jax.random.key(0), PROCESS, denoise, solver, grid, spec=spec)  # noqa: B023
                x, info = jax.block_until_ready(run())
                began = time.perf_counter()
                jax.block_until_ready(run())
                rows.append(
                    {
                        "law": name,
                        "measurement": measurement,
                        "method": method,
                        "mean": float(jnp.linalg.norm(x.mean(0) - exact.mean) / jnp.sqrt(scale)),
                        "covariance": float(jnp.linalg.norm(jnp.cov(x.T) - exact.covariance) / scale),
                        "nfe": int(info.nfe),
                        "seconds": round(time.perf_counter() - began, 3),
                    }
                )
                say(f"{name}, {measurement}, {method}")
    about = {"size": size, "steps": steps, "schedule": "Cosine", "grid": "logsnr", "noise_std": NOISE}
    return {"about": about | results_file.about(), "rows": rows}


def table(result: dict[str, Any]) -> str:
    """One table in Markdown: a row for each method and measurement, errors on both laws."""
    lines = [
        "| measurement | method | NFE | normal: mean, covariance | mixture: mean, covariance |",
        "|---|---|---|---|---|",
    ]
    found = {(r["law"], r["measurement"], r["method"]): r for r in result["rows"]}
    for measurement, method in dict.fromkeys((r["measurement"], r["method"]) for r in result["rows"]):
        pair = [found[law, measurement, method] for law in LAWS]
        cells = [f"{row['mean']:.3f}, {row['covariance']:.3f}" for row in pair]
        lines.append(f"| {measurement} | {method} | {pair[0]['nfe']} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_000, help="samples; %(default)s")
    parser.add_argument("--steps", type=int, default=200, help="of the sampler; %(default)s")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/conditioning.json"), help="%(default)s")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: the table from the JSON")
    arguments = parser.parse_args()
    if min(arguments.size, arguments.steps) < 2:
        parser.error(f"--size and --steps must be at least 2, got {arguments.size} and {arguments.steps}")
    if not arguments.redraw:
        results_file.write(arguments.json, measure(arguments.size, arguments.steps))
    print(table(json.loads(arguments.json.read_text())))


if __name__ == "__main__":
    main()
