"""The process that a pretrained model was trained for, from diffusers' `scheduler_config.json`.

A table of 1000 betas is `schedules.FromBetas`, entry k at t = (k + 1) / 1000; what the model predicts is the
prediction. How diffusers would sample (spacing, order, sigmas of Karras) is not read: choose a solver and a grid.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from experiments.errors import UserError
from experiments.pretrained.folder import read_json
from experiments.pretrained.layouts import TIMESTEPS
from jaxdiff import Gaussian, predictions
from jaxdiff.schedules import FromBetas

_PREDICTIONS = {"epsilon": predictions.eps, "sample": predictions.x0, "v_prediction": predictions.v}


class Scheduler(NamedTuple):
    """What a pretrained model was trained for.

    Attributes:
        process: its noise and its prediction.
        limit: largest magnitude of the data, to which diffusers clips x0 at each step; None where it does not.
    """

    process: Gaussian
    limit: float | None


def load(folder: epath.PathLike) -> Scheduler:
    """The process of a pipeline's folder, or of one that holds `scheduler_config.json` itself.

    Raises:
        UserError: no such file; another schedule or prediction than these, another number of steps than 1000.
    """
    places = [epath.Path(folder) / part / "scheduler_config.json" for part in ("", "scheduler")]
    config = read_json(next((place for place in places if place.exists()), places[0]))
    steps = config.get("num_train_timesteps", TIMESTEPS)
    if steps != TIMESTEPS:
        raise UserError(f"num_train_timesteps must be {TIMESTEPS}, got {steps}; models of other tables do not load")
    if config.get("rescale_betas_zero_snr"):
        raise UserError(
            "rescale_betas_zero_snr must be false, got true: its last beta is 1; make the process yourself, "
            "with schedules.ZeroTerminalSNR around the table that is rescaled"
        )
    kind = config.get("prediction_type", "epsilon")
    if kind not in _PREDICTIONS:
        raise UserError(
            f"prediction_type must be {' or '.join(_PREDICTIONS)}, got {kind!r}; such a model does not load"
        )
    clipped = config.get("clip_sample", False)
    process = Gaussian(schedule=FromBetas(betas=_betas(config)), prediction=_PREDICTIONS[kind]())
    return Scheduler(process, float(config.get("clip_sample_range", 1.0)) if clipped else None)


def _betas(config: dict[str, Any]) -> np.ndarray:
    """The table, float32 (1000,)."""
    if (given := config.get("trained_betas")) is not None:
        betas = np.asarray(given, np.float32)
        if betas.shape != (TIMESTEPS,):
            raise UserError(f"trained_betas must be {TIMESTEPS} numbers, got shape {betas.shape}; it does not load")
        return betas
    tables: dict[str, Callable[[float, float], Any]] = {
        "linear": lambda first, last: FromBetas.linear(TIMESTEPS, first=first, last=last).betas,
        "scaled_linear": lambda first, last: FromBetas.scaled_linear(TIMESTEPS, first=first, last=last).betas,
        "squaredcos_cap_v2": lambda first, last: _cosine(),
    }
    name = config.get("beta_schedule")
    if name not in tables:
        raise UserError(
            f"beta_schedule must be {' or '.join(tables)}, got {name!r} (flow matching has none); make the "
            "process yourself"
        )
    if "beta_start" not in config or "beta_end" not in config:
        raise UserError("scheduler_config.json needs beta_start and beta_end, which are not there; add them")
    return np.asarray(tables[name](config["beta_start"], config["beta_end"]))


def _cosine() -> np.ndarray:
    """1 - abar((k + 1) / K) / abar(k / K), at most 0.999, abar(u) = cos^2((u + s) / (1 + s) pi / 2), s = 0.008
    (arXiv 2102.09672, eq. 17)."""
    abar = np.cos((np.arange(TIMESTEPS + 1) / TIMESTEPS + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - abar[1:] / abar[:-1], 0.999).astype(np.float32)
