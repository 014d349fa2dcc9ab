"""diffusers on PyTorch: the same network with the same weights, its schedulers, and PyTorch's own ceilings.

Imported only where a peer is asked for. Ways to run a network: as it is (`eager`), with channels last in memory,
through `torch.compile`, and through that with the weights frozen into the program.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import numpy as np
import torch
import torch._inductor.config as inductor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.ceilings import CHANNELS, PICTURES, SIDE, SIDES, Call, convolution_flops, grown
from benchmarks.timing import WARM_UP

WAYS = ("eager", "channels_last", "compile", "compile, frozen")
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "dpmpp2m": ("DPMSolverMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "ancestral": ("DDPMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
}
"""By our solver's name; each with its table of 1000 betas and its own spacing of the times."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network(config: dict[str, Any], seed: int = 0) -> torch.nn.Module:
    """A network with random weights; the blocks of a DiT have one embedding, as in all that were published."""
    torch.manual_seed(seed)
    options = {name: value for name, value in config.items() if name != "_class_name"}
    made = getattr(diffusers, config["_class_name"])(**options).eval().requires_grad_(False)
    first, *others = getattr(made, "transformer_blocks", [None])
    for block in others:
        block.norm1.emb.load_state_dict(first.norm1.emb.state_dict())
    return made.to(device())


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Its weights by diffusers' names."""
    return {name: tensor.float().cpu().numpy() for name, tensor in model.state_dict().items()}


def scheduler(solver: str, steps: int) -> Any:
    name, options = SCHEDULERS[solver]
    made = getattr(diffusers, name)(**options)
    made.set_timesteps(steps)
    return made


def times(solver: str, steps: int) -> np.ndarray:
    """Our grid (steps + 1,) of a scheduler's times: entry k of the table is t = (k + 1) / 1000, then the data."""
    entries = np.asarray([*(float(k) for k in scheduler(solver, steps).timesteps), -1.0])
    return ((entries + 1) / 1000).astype(np.float32)


def sampler(
    call: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], solver: str, steps: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """`noise -> samples`: the loop of diffusers' pipelines, with `call(x, k)` the predicted noise."""

    plan = scheduler(solver, steps)

    @torch.no_grad()
    def run(x: torch.Tensor) -> torch.Tensor:
        plan.set_timesteps(steps)
        x = x * plan.init_noise_sigma
        for k in plan.timesteps:
            x = plan.step(call(plan.scale_model_input(x, k), k), k, x).prev_sample
        return x

    return run


@contextlib.contextmanager
def prepared(model: Any, way: str) -> Iterator[Any]:
    """The network run in one of `WAYS`."""
    torch.compiler.reset()
    layout = torch.channels_last if way == "channels_last" else torch.contiguous_format
    model = model.to(memory_format=layout)
    with inductor.patch(freezing=way == "compile, frozen"):
        yield torch.compile(model) if way.startswith("compile") else model


def repeated(call: Callable[[], Any], repeats: int) -> tuple[float, list[float], Any]:
    """`(seconds of the first call, seconds of each of the repeats, result)`; compilation is in the first."""
    seconds, result = [], None
    for _ in range(WARM_UP + repeats):
        began = time.perf_counter()
        result = call()
        if device().type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds[0], seconds[WARM_UP:], result


@torch.no_grad()
def ceilings(precision: str) -> dict[str, float]:
    """What `benchmarks.ceilings` measures of matrix products and convolutions, in PyTorch."""
    kind = {"device": device(), "dtype": getattr(torch, precision)}

    seconds = lambda call, repeats: repeated(call, repeats)[1]
    draw = lambda *shape: torch.randn(shape, **kind)

    def product(side: int) -> tuple[Call, float]:
        a = draw(side, side)
        return lambda: a @ a, 2.0 * side**3

    def convolution(count: int) -> tuple[Call, float]:
        x, kernel = draw(count, CHANNELS, SIDE, SIDE), draw(CHANNELS, CHANNELS, 3, 3)
        return lambda: torch.nn.functional.conv2d(x, kernel, padding=1), convolution_flops(count)

    return {"product": grown(product, SIDES, seconds), "convolution": grown(convolution, PICTURES, seconds)}


def training_step(
    config: dict[str, Any], batch: int, precision: str, *, compiled: bool, learning_rate: float = 1e-4
) -> Callable[[], Any]:
    """A call that makes one AdamW step on random data: loss of the noise, gradient clipped, average of the weights."""
    model = network(config).train().requires_grad_(True)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    size, classes = config["sample_size"], config.get("num_embeds_ada_norm", 0)
    x0 = torch.rand(batch, config.get("in_channels", 3), size, size, device=device()) * 2 - 1
    labels = torch.arange(batch, device=device()) % classes if classes else None
    signal = scheduler("ancestral", 1).alphas_cumprod.to(device())
    forward = torch.compile(model) if compiled else model

    def step() -> torch.Tensor:
        k, eps = torch.randint(0, len(signal), (batch,), device=device()), torch.randn_like(x0)
        alpha, sigma = (a[:, None, None, None] for a in (signal[k].sqrt(), (1 - signal[k]).sqrt()))
        with torch.autocast(device().type, torch.bfloat16, enabled=precision == "bfloat16"):
            out = forward(alpha * x0 + sigma * eps, k, **({"class_labels": labels} if classes else {})).sample
        loss = (out.float() - eps).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        return loss

    return step


def versions() -> dict[str, Any]:
    return {"torch": torch.__version__, "diffusers": diffusers.__version__, "threads": torch.get_num_threads()}
