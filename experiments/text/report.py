"""What a run on text leaves to read: samples, how one of them came to be, and how text becomes noise."""

import dataclasses
from typing import Any

import numpy as np
from etils import epath

from experiments.forward import forward
from experiments.model import Model
from experiments.text.show import shown

_SAMPLES, _TIMES = 8, 9


def after_training(out: epath.Path, model: Model, params: Any, examples: np.ndarray) -> int:
    """Write samples.txt, trajectory.txt and forward.txt; returns the network evaluations of a sample."""
    show = lambda tokens: shown(model.info, np.asarray(tokens))
    sampler = dataclasses.replace(model.recipe.sampler, guidance_scale=1.0)
    samples, nfe = model.draw(params, None, _SAMPLES, sampler=sampler)
    (out / "samples.txt").write_text("\n\n---\n\n".join(map(show, samples)) + "\n")
    path, _ = model.draw(params, None, 1, sampler=sampler, trajectory=True)
    times = np.asarray(sampler.times(model.process.schedule))
    picked = np.unique(np.linspace(0, len(path) - 1, _TIMES).round().astype(int))
    write = lambda name, steps: (out / name).write_text("\n\n".join(steps) + "\n")
    write("trajectory.txt", [f"t = {times[i]:.3f}\n{show(path[i, 0])}" for i in picked])
    frames = forward(model, examples[:1], _TIMES - 1)
    write("forward.txt", [f"t = {i / (_TIMES - 1):.3f}\n{show(frame[0])}" for i, frame in enumerate(frames)])
    return nfe
