"""What a run on text leaves to read: samples, how one of them came to be, and how text becomes noise."""

import dataclasses
from typing import Any

import numpy as np
from etils import epath

from experiments.forward import forward
from experiments.model import Model
from experiments.text.show import shown

_SAMPLES, _TIMES = 8, 9


def after_training(out: epath.Path, model: Model, params: Any, examples: dict[str, np.ndarray]) -> int:
    """Write samples.txt, trajectory.txt and forward.txt; returns the network evaluations of a sample.

    Where a part of the examples is given, it is given to the samples too.
    """
    show = lambda tokens: shown(model.info, np.asarray(tokens))
    sampler = dataclasses.replace(model.recipe.sampler, guidance_scale=1.0)
    count = min(_SAMPLES, len(examples["x0"]))
    given = {}
    if "observed" in examples:
        given["observed"] = tuple(np.asarray(examples[name][:count]) for name in ("observed", "x0"))
    cond = np.asarray(examples["cond"][:count]) if "cond" in examples else None
    samples, nfe = model.draw(params, cond, count, sampler=sampler, **given)
    (out / "samples.txt").write_text("\n\n---\n\n".join(map(show, samples)) + "\n")
    path, _ = model.draw(params, cond, count, sampler=sampler, trajectory=True, **given)
    times = np.asarray(model.times(sampler))
    picked = np.unique(np.linspace(0, len(path) - 1, _TIMES).round().astype(int))
    write = lambda name, steps: (out / name).write_text("\n\n".join(steps) + "\n")
    write("trajectory.txt", [f"t = {times[i]:.3f}\n{show(path[i, 0])}" for i in picked])
    frames = forward(model, examples["x0"][:1], _TIMES - 1)
    write("forward.txt", [f"t = {i / (_TIMES - 1):.3f}\n{show(frame[0])}" for i, frame in enumerate(frames)])
    return nfe
