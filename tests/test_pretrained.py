"""Pretrained weights: the outputs of diffusers' models, sampling as its pipeline does, and what is refused."""

import functools
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import diffusers, torch
from safetensors.numpy import load_file, save_file

from experiments import pretrained
from experiments.errors import UserError
from experiments.pretrained import layouts, sampling, scheduler
from experiments.pretrained.__main__ import main
from experiments.pretrained.folder import WEIGHTS
from jaxdiff import grids, networks, sample, solvers
from jaxdiff.networks.embeddings import time_features

pytestmark = [
    # diffusers calls NumPy on torch's arrays, which do not follow NumPy 2's protocols yet.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
]
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# As google/ddpm-cifar10-32 and facebook/DiT-XL-2-256 were published; ADM as consistency models were.
DDPM = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
ADM = {
    "sample_size": 64,
    "block_out_channels": (192, 384, 576, 768),
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "layers_per_block": 3,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 64,
    "attn_norm_num_groups": 32,
    "num_class_embeds": 1000,
}
DIT = {
    "sample_size": 32,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 2,  # of 28
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
}
PUBLISHED = {"ddpm": DDPM, "adm": ADM, "dit": DIT}
SMALL = {
    "ddpm": DDPM
    | {"sample_size": 16, "block_out_channels": (16, 32, 32, 32), "norm_num_groups": 4, "layers_per_block": 1},
    # The defaults, whose first level does not attend, and pictures that are not square.
    "defaults": {
        "sample_size": (16, 8),
        "block_out_channels": (16, 32, 48, 64),
        "norm_num_groups": 8,
        "layers_per_block": 1,
    },
    "adm": ADM
    | {"sample_size": 8, "block_out_channels": (16, 32, 32, 48), "norm_num_groups": 8, "attn_norm_num_groups": 8}
    | {"attention_head_dim": 8, "num_class_embeds": 5, "layers_per_block": 1, "out_channels": 6},
    # Attention in the middle alone, and one channel a group: what tutorials train on digits.
    "digits": {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (16, 32),
        "norm_num_groups": 16,
        "norm_eps": 1e-2,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "num_class_embeds": 5,
    },
    "dit": DIT
    | {"sample_size": 8, "num_attention_heads": 4, "attention_head_dim": 8, "num_embeds_ada_norm": 4}
    | {"norm_eps": 1e-2},  # of the norm before the MLP alone, and large enough to be seen
}
STEPS = np.array([0, 17, 500, 999])


def build(name, config):
    return (diffusers.DiTTransformer2DModel if name == "dit" else diffusers.UNet2DModel)(**config)


@functools.cache
def model(name):
    """With random parameters, those included that start at zero or one."""
    made, draw = build(name, SMALL[name]), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            matrix = parameter.ndim > 1
            spread = parameter[0].numel() ** -0.5 if matrix else 0.2
            centre = 0 if matrix else parameter.mean().round()
            parameter.copy_(centre + spread * torch.randn(parameter.shape, generator=draw))
        if name == "dit":  # the embeddings of the blocks are one
            for block in made.transformer_blocks:
                block.norm1.emb.load_state_dict(made.transformer_blocks[0].norm1.emb.state_dict())
    return made.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`saved(name)`: the folder of `model(name)`."""

    @functools.cache
    def save(name):
        folder = tmp_path_factory.mktemp(name)
        model(name).save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def copied(saved, tmp_path):
    """`copied(name)`: a folder to spoil."""
    return lambda name: shutil.copytree(saved(name), tmp_path / name)


def inputs(name):
    config = model(name).config
    size = config.sample_size
    shape = (len(STEPS), *((size, size) if isinstance(size, int) else size), config.in_channels)
    count = {"dit": 5, "adm": 5, "digits": 5}.get(name)  # of the DiT the last is the null label
    labels = None if count is None else np.array([0, 1, count - 2, count - 1])
    return np.random.default_rng(0).normal(size=shape).astype(np.float32), labels


def theirs(name):
    x, labels = inputs(name)
    more = {} if labels is None else {"class_labels": torch.tensor(labels)}
    with torch.no_grad():
        return model(name)(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(STEPS), **more).sample.numpy()


def ours(name, folder):
    x, labels = inputs(name)
    make, params = pretrained.load(folder)
    apply = jit(networks.functional(make)[1])
    return np.asarray(apply(params, x, (STEPS + np.float32(1)) / np.float32(1000), labels)), apply, params


@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_those_of_diffusers(name, saved):
    """To 1e-4 of the largest; measured 2e-6 for U-Nets and 1e-5 for the DiT."""
    expected, (output, apply, params) = theirs(name).transpose(0, 2, 3, 1), ours(name, saved(name))
    assert output.shape == expected.shape and output.dtype == np.float32
    difference = np.abs(output - expected).max((1, 2, 3)) / np.abs(expected).max()
    assert (difference < 2e-5).all(), difference
    assert np.abs(expected[1:] - expected[:-1]).max() > 0.5  # examples, steps and labels differ
    without = apply(params, inputs(name)[0], 0.5)
    # There is no null label but the DiT's; diffusers refuses to go without one.
    assert np.isnan(without).all() == (name in ("adm", "digits"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_load(name):
    """Names and shapes of all tensors; no parameters are drawn."""
    with torch.device("meta"):
        empty = build(name, PUBLISHED[name])
    arrays = {key: np.zeros(value.shape, np.float32) for key, value in empty.state_dict().items()}
    config = json.loads(empty.to_json_string())
    make, params = pretrained.convert(config, arrays)
    count = sum(array.size for array in jax.tree.leaves(params))
    parts = [value for key, value in arrays.items() if not key.startswith("transformer_blocks.1.norm1.emb")]
    nulls = 4 * PUBLISHED[name]["block_out_channels"][0] if name == "adm" else 0
    assert count == sum(array.size for array in parts) + nulls
    assert sampling.built(make).shape[-1] == empty.config.in_channels


@pytest.mark.parametrize("cosine_first", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
def test_sinusoids_of_a_step_are_a_linear_map_of_those_of_its_time(shift, cosine_first):
    kernel = np.random.default_rng(2).normal(size=(16, 3)).astype(np.float32)
    k = np.array([0.0, 0.5, 3.0, 998.0, 999.0])
    angles = k[:, None] * 10000 ** (-np.arange(8) / (8 - shift))
    parts = [np.cos(angles), np.sin(angles)]
    expected = np.concatenate(parts if cosine_first else parts[::-1], -1) @ kernel
    period = layouts.max_period(16, shift)
    features = time_features(jnp.asarray((k + 1) / 1000, jnp.float32), 16, period)
    output = features @ layouts.time_kernel(kernel, period, cosine_first=cosine_first)
    # What float32 leaves of an angle of 1000.
    np.testing.assert_allclose(output, expected, atol=5e-4)


@pytest.mark.parametrize("clip", [False, True])
def test_sampling_is_that_of_a_pipeline(clip, tmp_path):
    config = {"clip_sample": clip, "timestep_spacing": "trailing"}
    pipeline = diffusers.DDIMPipeline(model("ddpm"), diffusers.DDIMScheduler(**config))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path)
    seed = lambda: torch.Generator().manual_seed(3)
    options = {"num_inference_steps": 5, "use_clipped_model_output": True, "output_type": "np"}
    expected = pipeline(batch_size=2, generator=seed(), **options).images
    start = torch.randn((2, 3, 16, 16), generator=seed()).numpy().transpose(0, 2, 3, 1)
    noise = scheduler.load(tmp_path)
    assert noise.limit == (1 if clip else None)
    denoise = sampling.denoiser(*pretrained.load(tmp_path), noise)
    times = grids.trailing(noise.process.schedule, 5)
    x, info = jit(sample)(jax.random.key(0), noise.process, denoise, solvers.DDIM(), times, x=jnp.asarray(start))
    assert int(info.nfe) == 5
    np.testing.assert_allclose((x / 2 + 0.5).clip(0, 1), expected, atol=1e-3)
    assert expected.std() > 0.1


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    """On a small model in the place of the published one."""
    small = SMALL["digits"] | {"sample_size": 32, "in_channels": 3, "out_channels": 3, "num_class_embeds": None}
    pipeline = diffusers.DDPMPipeline(build("digits", small), diffusers.DDPMScheduler())
    pipeline.save_pretrained(tmp_path / "ddpm-cifar10-32")
    page = Path(__file__).parents[1] / "docs" / "pretrained.md"
    (code,) = re.findall(r"^```py\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, str(page), "exec"), names)
    assert names["x"].shape == (16, 32, 32, 3) and int(names["info"].nfe) == 20
    assert np.abs(names["x"]).max() <= 1


def test_older_names_and_half_precision(copied):
    folder, new = copied("ddpm"), {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    _, expected = pretrained.load(folder)
    arrays = load_file(folder / WEIGHTS)
    for modern, old in new.items():
        arrays = {name.replace(f".{modern}.", f".{old}."): array for name, array in arrays.items()}
    assert "mid_block.attentions.0.proj_attn.weight" in arrays
    save_file(arrays, folder / WEIGHTS)
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(folder)[1], expected)
    from safetensors.torch import save_file as save_tensors  # needs torch, which is not everywhere

    for dtype, error in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        halves = {name: torch.tensor(array).to(dtype) for name, array in arrays.items()}
        save_tensors(halves, folder / WEIGHTS)
        _, rough = pretrained.load(folder)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(rough))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=error), rough, expected)


def change(folder, **options):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ddpm", {"_class_name": "UNet2DConditionModel"}, "needed a model of class UNet2DModel or .* got UNet2DCond"),
        ("ddpm", {"time_embedding_type": "fourier"}, "time_embedding_type must be 'positional', got 'fourier'"),
        ("ddpm", {"act_fn": "gelu"}, "act_fn must be 'silu' or 'swish', got 'gelu'"),
        ("ddpm", {"add_attention": False}, "add_attention must be True, got False"),
        ("ddpm", {"mid_block_scale_factor": 1.41}, "mid_block_scale_factor must be 1, got 1.41"),
        ("ddpm", {"class_embed_type": "timestep"}, "class_embed_type must be None"),
        ("ddpm", {"downsample_padding": 2}, "downsample_padding must be 1 or 0, got 2"),
        ("ddpm", {"sample_size": None}, "sample_size must be the height and width .* set it in config.json"),
        ("ddpm", {"block_out_channels": [16, 24, 32, 32]}, "must be even and multiples of the first"),
        ("ddpm", {"attention_head_dim": 12}, "attention_head_dim must divide the channels that attend, got 12"),
        ("ddpm", {"attn_norm_num_groups": 8}, "attn_norm_num_groups must be norm_num_groups = 4, got 8"),
        ("adm", {"attn_norm_num_groups": None}, "attn_norm_num_groups must be norm_num_groups = 8, got None"),
        ("ddpm", {"up_block_types": ["UpBlock2D"] * 4}, "up_block_types must mirror down_block_types"),
        ("adm", {"upsample_type": "conv"}, "all change the size in one way"),
        ("ddpm", {"down_block_types": ["SkipDownBlock2D"] * 4}, "must be 4 of DownBlock2D, .* got .*SkipDownBlock2D"),
        ("ddpm", {"new_part": 3}, "unknown options new_part = 3"),
        ("ddpm", {"num_class_embeds": 3}, "the weights need a tensor class_embedding.weight, which is not there"),
        ("ddpm", {"in_channels": 4}, r"needs parameter \['stem'\]\['kernel'\] of shape \(3, 3, 4, 16\), got \(3, 3, 3"),
        ("adm", {"num_class_embeds": None}, "1 tensor left over, such as class_embedding.weight"),
        ("dit", {"norm_type": "ada_norm_single"}, "norm_type must be 'ada_norm_zero'"),
        ("dit", {"activation_fn": "geglu"}, "activation_fn must be 'gelu-approximate', got 'geglu'"),
        ("dit", {"num_attention_heads": 3}, "must have queries, keys and values of one size and 3 heads"),
        ("dit", {"num_layers": 1}, "tensors left over, such as transformer_blocks.1"),
    ],
)
def test_other_models_are_refused(name, options, message, copied):
    folder = copied(name)
    change(folder, **options)
    with pytest.raises(UserError, match=message):
        pretrained.load(folder)


def test_files_that_do_not_fit_are_refused(copied, tmp_path):
    folder = copied("dit")
    arrays = load_file(folder / WEIGHTS)
    with_change = lambda **changes: save_file({**arrays, **changes}, folder / WEIGHTS)
    with_change(more=np.zeros(3, np.float32))
    with pytest.raises(UserError, match="1 tensor left over, such as more"):
        pretrained.load(folder)
    with_change(**{"proj_out_2.bias": np.zeros((1, 32), np.float32)})
    with pytest.raises(UserError, match=r"tensor proj_out_2.bias must have 1 axes, got shape \(1, 32\)"):
        pretrained.load(folder)
    with_change(**{"proj_out_2.bias": np.zeros(31, np.float32)})
    with pytest.raises(UserError, match=r"needs parameter \['out'\]\['bias'\] of shape \(32,\), got \(31,\)"):
        pretrained.load(folder)
    table = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    with_change(**{table: arrays[table] + 1})
    with pytest.raises(UserError, match="must be the same in every block, but those of blocks 0 and 1 differ"):
        pretrained.load(folder)
    save_file({name: array for name, array in arrays.items() if name != "proj_out_1.weight"}, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"the weights need a tensor proj_out_1.weight, which is not there"):
        pretrained.load(folder)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])
    with pytest.raises(UserError, match="is no whole safetensors file"):
        pretrained.load(folder)
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"got diffusion_pytorch_model.bin: pickles can run code when they are read"):
        pretrained.load(folder)
    (folder / "diffusion_pytorch_model.bin").rename(folder / "other.safetensors")
    with pytest.raises(UserError, match=r"got config.json, other.safetensors; save the model in one file"):
        pretrained.load(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="must hold an object, got list"):
        pretrained.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        pretrained.load(folder)
    with pytest.raises(UserError, match=r"needed .*config.json, which is not there"):
        pretrained.load(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_command_draws_pictures_and_latents(copied, tmp_path, capsys):
    # alpha(1) is 0.28: the first step divides by it what another batch size rounds otherwise.
    table = json.dumps({"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.005, "clip_sample": True})
    folders = {name: copied(name) for name in ("digits", "dit")}
    for folder in folders.values():
        (folder / "scheduler_config.json").write_text(table)
    digits, dit = (str(folder) for folder in folders.values())
    out = tmp_path / "drawn.png"
    main([digits, "--out", str(out), "--classes", "1", "4", "--count", "2", "--steps", "2", "--solver", "dpmpp2m"])
    assert "4 samples with DPMpp2M, 2 network evaluations each" in capsys.readouterr().out
    assert out.stat().st_size > 0
    with np.load(out.with_suffix(".npz")) as drawn:
        assert drawn["samples"].shape == (4, 8, 8, 1) and list(drawn["labels"]) == [1, 1, 4, 4]
        assert np.abs(drawn["samples"]).max() <= 1
        whole = drawn["samples"]
    few = ["--count", "2", "--steps", "2"]
    parts = [*few, "--classes", "1", "4", "--solver", "dpmpp2m", "--batch-size", "3"]
    main([digits, "--out", str(out), *parts])
    with np.load(out.with_suffix(".npz")) as drawn:
        np.testing.assert_allclose(drawn["samples"], whole, atol=1e-4)
    main([dit, "--out", str(tmp_path / "latents.npz"), *few, "--classes", "3", "--guidance-scale", "2"])
    assert "2 samples with DDIM, 4 network evaluations each" in capsys.readouterr().out
    with np.load(tmp_path / "latents.npz") as drawn:
        assert drawn["samples"].shape == (2, 8, 8, 4)
    for arguments, message in (
        ([], "needed a folder first"),
        ([digits, "--out", "a.jpg"], r"ends in .png or .npz, got a.jpg"),
        ([digits, "--count", "0"], "must be at least 1"),
        ([digits, *few], "the model has 5 classes: give labels in their range"),
        ([digits, *few, "--classes", "5"], r"labels must lie in \[0, 5\), got 5 to 5"),
        ([digits, *few, "--classes", "1", "--guidance-scale", "2"], "a guidance scale of 2 needs a null label"),
        ([dit, *few, "--classes", "1"], "4 channels are latents, whose decoder does not load; use --out NAME.npz"),
    ):
        with pytest.raises(UserError, match=message):
            main(arguments)
