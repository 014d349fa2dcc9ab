"""What a name on the command line stands for: the objects that can stand in each place of a recipe."""

from collections.abc import Callable
from typing import Any

from experiments import data, networks, processes
from experiments.recipe import Recipe
from jaxdiff import grids, predictions, schedules, solvers, times, weightings

Choice = Callable[[Recipe], Any]


_NEED_MORE = {"BlockDiffusion", "Each", "Memory", "PredictorCorrector", "Restart"}  # solvers with parts to choose


def _blocks(size: int) -> Any:
    return solvers.BlockDiffusion(inner=solvers.Ancestral(), block=size)


def _always(make: Callable[[], Any]) -> Choice:
    return lambda recipe: make()


CHOICES: dict[str, dict[str, Choice]] = {
    "data": {
        "digits": _always(data.Digits),
        "mnist": _always(data.Mnist),
        "fashion-mnist": _always(data.FashionMnist),
        "cifar10": _always(data.Cifar10),
    },
    "process.schedule": {
        "cosine": _always(schedules.Cosine),
        "rectified-flow": _always(schedules.RectifiedFlow),
        "linear-beta": _always(schedules.LinearBeta),
        "variance-exploding": _always(schedules.VarianceExploding),
        "edm": _always(schedules.EDM),
        "sigmoid": _always(schedules.Sigmoid),
        "ddpm": _always(schedules.FromBetas.linear),
        "stable-diffusion": _always(schedules.FromBetas.scaled_linear),
        "zero-terminal-snr": _always(lambda: schedules.ZeroTerminalSNR(base=schedules.FromBetas.scaled_linear())),
        "shifted-cosine": _always(lambda: schedules.Shifted(base=schedules.Cosine(), shift=0.25)),
        "shifted-flow": _always(lambda: schedules.Shifted(base=schedules.RectifiedFlow(), shift=3.0)),
    },
    "process.prediction": {
        name: _always(getattr(predictions, name)) for name in ("x0", "eps", "v", "velocity", "score", "edm")
    },
    "process": {name: _always(getattr(processes, name.capitalize())) for name in ("masked", "uniform", "ordinal")},
    "network": {
        "mlp": _always(networks.MLP),
        "unet": _always(networks.UNet),
        "dit": _always(networks.DiT),
        "transformer": _always(networks.Transformer),
        "autoencoder": _always(networks.Autoencoder),
    },
    "times": {
        "uniform": _always(times.uniform),
        "logit-normal": _always(times.logit_normal),
        "edm": lambda recipe: times.edm(schedule=recipe.process.schedule),
    },
    "weighting": {
        name.replace("_", "-"): _always(getattr(weightings, name))
        for name in ("v", "eps", "x0", "velocity", "edm", "min_snr", "p2", "sigmoid")
    },
    "sampler.solver": {
        name.lower(): _always(getattr(solvers, name)) for name in sorted({*solvers.__all__} - _NEED_MORE, key=str.lower)
    }
    | {"blockdiffusion": lambda recipe: _blocks(getattr(recipe.network, "block", None) or 1)},
    "sampler.grid": {
        name.replace("_", "-"): lambda recipe, name=name: getattr(grids, name)
        for name in sorted(
            {*grids.__all__} - {"blockwise", "from_times", "optimized"}
        )  # these need more than a number of steps
    },
}
