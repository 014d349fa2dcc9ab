"""Schedulers beside pretrained weights: the tables of diffusers, and what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from parity import diffusers

from experiments.errors import UserError
from experiments.pretrained import scheduler
from jaxdiff import predictions


@pytest.mark.parametrize(
    ("config", "prediction"),
    [
        ({"beta_schedule": "linear"}, predictions.eps()),
        ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, predictions.eps()),
        ({"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}, predictions.v()),
        ({"trained_betas": [1e-3] * 1000, "prediction_type": "sample"}, predictions.x0()),
    ],
)
def test_schedulers_are_the_tables_of_diffusers(config, prediction, tmp_path):
    reference = diffusers.DDPMScheduler(clip_sample=False, **config)
    reference.save_pretrained(tmp_path / "scheduler")
    found = scheduler.load(tmp_path)
    assert found.process.prediction == prediction and found.limit is None
    np.testing.assert_allclose(found.process.schedule.betas, reference.betas, rtol=1e-5)
    alpha, _ = found.process.schedule(jnp.arange(1, 1001) / 1000)
    np.testing.assert_allclose(alpha, reference.alphas_cumprod**0.5, rtol=2e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_train_timesteps": 4000}, "num_train_timesteps must be 1000, got 4000"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr must be false"),
        ({"prediction_type": "flow"}, "prediction_type must be epsilon or sample or v_prediction, got 'flow'"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule must be linear or .* got 'sigmoid'"),
        ({"trained_betas": [0.1]}, r"trained_betas must be 1000 numbers, got shape \(1,\)"),
        ({"beta_schedule": "linear"}, "needs beta_start and beta_end"),
    ],
)
def test_other_schedulers_are_refused(config, message, tmp_path):
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        scheduler.load(tmp_path)
