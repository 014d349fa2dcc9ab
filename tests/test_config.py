import json

import jax
import numpy as np
import pytest

from experiments import config, recipes
from experiments.cli import CHOICES, choose, consistent
from experiments.errors import UserError


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_comes_back_from_json(name):
    recipe = recipes.get(name)
    again = config.decode(json.loads(json.dumps(config.encode(recipe))))
    assert type(again) is type(recipe)
    assert config.encode(again) == config.encode(recipe)


@pytest.mark.parametrize(("place", "name"), [(place, name) for place, names in CHOICES.items() for name in names])
def test_every_choice_comes_back_from_json(place, name):
    extra = ["--process.schedule", "linear-beta"] if name in ("eps", "score") and place.startswith("process") else []
    recipe, rest = choose(recipes.get("digits"), [f"--{place}={name}", *extra])
    assert not rest
    again = config.decode(json.loads(json.dumps(config.encode(consistent(recipe)))))
    for a, b in zip(jax.tree.leaves(again.process), jax.tree.leaves(recipe.process), strict=True):
        np.testing.assert_array_equal(a, b)
    assert config.encode(again) == config.encode(recipe)


def test_public_names_are_written():
    text = json.dumps(config.encode(recipes.get("digits")))
    assert '"jaxdiff.solvers.' in text
    assert '"jaxdiff.schedules.' in text
    assert "cosine." not in text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"type": "os.system"}, "os.system"),
        ({"type": "jaxdiff.solvers.Nothing"}, "Nothing"),
        ({"function": "builtins.eval"}, "eval"),
        ({"type": "jaxdiff.solvers.DDIM", "etta": 1.0}, "etta"),
    ],
)
def test_unknown_names_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        config.decode(data)


def test_differences_name_the_fields():
    a, b = config.encode(recipes.get("digits")), config.encode(choose(recipes.get("digits"), ["--network", "mlp"])[0])
    assert config.differences(a, a) == []
    assert any(line.startswith("network.type: experiments.networks.UNet -> ") for line in config.differences(a, b))
