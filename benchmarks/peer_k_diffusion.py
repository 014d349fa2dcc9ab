"""k_diffusion/sampling.py alone, and its samplers by our solvers' names.

The package requires torchvision, wandb and more that its samplers do not need. So `make test` installs it without
dependencies, in a folder of its own: the environment's packages stay complete.
"""

import functools
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

SAMPLERS = {"euler": "sample_euler", "dpmpp2m": "sample_dpmpp_2m", "ancestral": "sample_euler_ancestral"}
_FILE = Path(sys.prefix, "k-diffusion", "k_diffusion", "sampling.py")


def installed() -> bool:
    return _FILE.exists() and importlib.util.find_spec("torchsde") is not None


@functools.cache
def load() -> Any:
    """The module `k_diffusion.sampling`."""
    spec = importlib.util.spec_from_file_location("k_diffusion.sampling", _FILE)
    if spec is None or spec.loader is None:
        raise ImportError(f"{_FILE} cannot be loaded")
    module: Any = importlib.util.module_from_spec(spec)
    package, utils, solve = (types.ModuleType(n) for n in ("k_diffusion", "k_diffusion.utils", "torchdiffeq"))
    parts: dict[str, Any] = {"append_dims": lambda x, ndim: x[(...,) + (None,) * (ndim - x.ndim)]}
    vars(utils).update(parts)
    vars(package)["utils"], vars(solve)["odeint"] = utils, None  # for log_likelihood, which nobody calls
    with mock.patch.dict(sys.modules, {stub.__name__: stub for stub in (package, utils, solve)}):
        spec.loader.exec_module(module)
    return module


def sampler(solver: str, steps: int) -> Any:
    """`noise -> samples` of a denoiser that is half of x, from sigma 80 to 0 in equal steps; None where it has none."""
    import torch

    if solver not in SAMPLERS:
        return None
    sample = getattr(load(), SAMPLERS[solver])
    sigmas = torch.linspace(80.0, 0.0, steps + 1)

    @torch.no_grad()
    def run(x: Any) -> Any:
        return sample(lambda x, sigma, **_: 0.5 * x, x, sigmas, disable=True)

    return run
