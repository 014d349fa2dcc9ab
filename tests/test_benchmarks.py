"""Benchmarks run: small sizes, all methods."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from benchmarks import composition, composition_measures, conditioning
from benchmarks import pictures as documentation
from experiments import train
from experiments.data import Digits
from experiments.loading import load

RESTORED = ("superres", "inpaint")


def test_every_picture_of_the_documentation_has_the_commands_that_make_it(tmp_path):
    drawn = {picture for _, _, made in documentation.DRAWN.values() for picture in made}
    assert drawn == {path.name for path in (Path(__file__).parents[1] / documentation.PICTURES).iterdir()}
    (tmp_path / "inpaint").mkdir()
    (tmp_path / "inpaint" / "summary.json").touch()  # finished: not trained again
    found = list(documentation.commands("restoration", tmp_path, Path("raw")))
    assert [command.split()[1] for command in found] == ["superres", "superres", *[str(tmp_path / n) for n in RESTORED]]
    assert "--data.raw-dir raw/fashion-mnist" in found[0]


@pytest.mark.slow
def test_the_benchmark_of_conditioning_has_a_row_for_each_method_and_law():
    result = json.loads(json.dumps(conditioning.measure(size=64, steps=3)))
    rows = conditioning.table(result).splitlines()[2:]
    assert len(rows) == len(result["rows"]) / len(conditioning.LAWS)
    assert all(row["nfe"] >= 3 and row["mean"] >= 0 for row in result["rows"])


class Guess:
    """A judge that looks at nothing."""

    def predict(self, images):
        assert images.dtype == np.uint8 and images.shape[1:] == (8, 8, 1)
        return np.arange(len(images)) % 10


@pytest.mark.slow
def test_the_benchmark_of_composition_has_a_row_for_each_method(tmp_path):
    train.main(["digits", "--out", str(tmp_path / "run"), *tiny.FLAGS])
    model, params, _ = load(tmp_path / "run")
    test = Digits().load().test
    sampler = dataclasses.replace(model.recipe.sampler, steps=2)
    real = np.asarray(test.images[:]), np.asarray(test.labels)
    setting = composition_measures.Setting(model, params, Guess(), real, sampler, 2.0, 1)
    *_, (figures, shown) = composition.measure(setting, [12, 14], panoramas=2, edits=6)
    result = json.loads(json.dumps(figures))
    methods = [composition.OURS, composition.HARD, composition.SUM, composition.PASTE, composition.REAL]
    elsewhere = [method for method in methods if method != composition.SUM]  # at the first width alone
    assert [row["method"] for row in result["canvases"]] == methods + elsewhere
    assert all(row["count"] == 90 for row in result["canvases"])
    assert all(row["over_real"] == 1 for row in result["canvases"] if row["method"] == composition.REAL)
    assert composition.tables(result).count("| 8 x ") == 5 + 4 and len(shown) == 5 + 1 + 7
    assert composition.draw(shown).startswith(b"\x89PNG")


def test_the_interval_of_a_share():
    low, high = composition_measures.wilson(9, 10)
    np.testing.assert_allclose((low, high), (0.596, 0.982), atol=1e-3)  # Wilson's, from tables
    np.testing.assert_allclose(composition_measures.wilson(0, 5)[0], 0, atol=1e-9)
