"""What a run leaves to look at: pictures, summary.json, and report.html, one file that shows all of it."""

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

import jaxdiff
from experiments import codes, pictures
from experiments.forward import forward
from experiments.hardware import versions
from experiments.logging import Row, read_rows
from experiments.model import Model
from experiments.networks import Autoencoder
from experiments.recipe import Sampler
from experiments.restoration import preview
from experiments.run_directory import write_json
from experiments.text import report as written

_PER_CLASS, _MOST_CLASSES, _STRIP = 10, 20, 8
_TEXTS = {
    "samples.txt": "Samples",
    "trajectory.txt": "Sampling: noise to text",
    "forward.txt": "The forward process: text to noise",
}
_CAPTIONS = {
    "samples.png": "Samples, a row per class: as the model draws them, and on the right with guidance",
    "restored.png": "What is seen of training examples, three samples given all that the network is told, the truth",
    "forward.png": "The forward process: data to noise",
    "trajectory.png": "Sampling: noise to data",
    "reconstructions.png": "Pictures, and below each what the autoencoder makes of it",
    "loss.png": "Training",
}


def after_training(
    out: epath.Path,
    model: Model,
    params: Any,
    examples: dict[str, np.ndarray],
    rows: list[Row],
    summary: dict[str, Any],
) -> None:
    """Draw the run's pictures or write its texts, and write summary.json and report.html.

    Args:
        params: the averaged parameters.
        examples: a batch of real data: for the forward trajectory, and for what is given of it.
        rows: the logged metrics.
        summary: figures of the training.
    """
    if isinstance(model.recipe.network, Autoencoder):
        nfe = None
        (out / "reconstructions.png").write_bytes(codes.sheet(model, params, examples["x0"]))
    elif model.info.tokenizer is None:
        nfe = _pictures(out, model, params, examples)
    else:
        nfe = written.after_training(out, model, params, examples)
    if rows:
        (out / "loss.png").write_bytes(pictures.loss_curve(rows))
    data = {"name": model.info.name, "checksum": model.info.checksum, "shape": list(model.info.shape)}
    about = {"seed": model.recipe.seed, "nfe": nfe, "versions": versions() | {"jaxdiff": jaxdiff.__version__}}
    write_json(out / "summary.json", {**summary, **about, "data": data})
    write(out)


def _pictures(out: epath.Path, model: Model, params: Any, examples: dict[str, Any]) -> int:
    """samples.png or restored.png, trajectory.png and forward.png; network evaluations of a sample."""
    sampler = dataclasses.replace(model.recipe.sampler, guidance_scale=1.0)
    if model.recipe.conditions.restores or model.told - {"label"}:
        sheet, path, nfe = preview.sheet(model, params, examples, sampler, _STRIP)
        (out / "restored.png").write_bytes(pictures.grid(sheet.reshape(-1, *sheet.shape[2:]), sheet.shape[1]))
    else:
        path, nfe = _samples(out, model, params, sampler)
    (out / "trajectory.png").write_bytes(pictures.strip(path))
    frames = forward(model, examples["x0"][:_STRIP])
    (out / "forward.png").write_bytes(pictures.strip(np.stack([model.pixels(x) for x in frames])))
    return nfe


def _samples(out: epath.Path, model: Model, params: Any, sampler: Sampler) -> tuple[np.ndarray, int]:
    """samples.png, with guidance beside it where there are classes and a null class; the path of some samples."""
    classes = len(model.info.classes)
    shown = min(classes, _MOST_CLASSES)
    labels = np.repeat(np.arange(shown), _PER_CLASS) if classes else None
    count, columns = (shown * _PER_CLASS, _PER_CLASS) if classes else (64, 8)
    plain, nfe = model.draw(params, labels, count, sampler=sampler)
    guides = model.recipe.cond_dropout > 0
    if classes and guides:
        stronger = dataclasses.replace(sampler, guidance_scale=model.recipe.preview_guidance)
        guided, _ = model.draw(params, labels, count, sampler=stronger)
        (out / "samples.png").write_bytes(pictures.side_by_side(plain, guided, columns))
    else:
        (out / "samples.png").write_bytes(pictures.grid(plain, columns))
    few = None if labels is None else np.resize(np.arange(classes), _STRIP)
    chosen = model.recipe.sampler if guides else sampler
    return model.draw(params, few, _STRIP, sampler=chosen, trajectory=True)[0], nfe


def write(out: epath.Path) -> None:
    """(Re)write report.html from what the directory holds."""
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(default=True)
    )
    images = [
        {"caption": caption, "data": base64.b64encode((out / name).read_bytes()).decode()}
        for name, caption in _CAPTIONS.items()
        if (out / name).exists()
    ]
    texts = [
        {"caption": caption, "text": (out / name).read_text()}
        for name, caption in _TEXTS.items()
        if (out / name).exists()
    ]
    html = environment.get_template("report.html.jinja").render(
        name=out.name,
        images=images,
        texts=texts,
        summary=_read(out / "summary.json"),
        evaluation=_read(out / "evaluation.json"),
        config=json.dumps(_read(out / "config.json"), indent=2),
        rows=read_rows(out / "metrics.jsonl")[-1:] if (out / "metrics.jsonl").exists() else [],
    )
    (out / "report.html").write_text(html)


def _read(path: epath.Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
