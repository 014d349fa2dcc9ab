"""The convolution of the networks has the derivatives of JAX's own, and XLA's fast form in loops."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.networks import convolution
from jaxdiff.networks.convolution import convolve

CASES = {
    "same": ((1, 1), ((1, 1), (1, 1)), (7, 6)),
    "halved": ((2, 2), ((0, 1), (0, 1)), (8, 6)),
    "halved, odd": ((2, 2), ((1, 1), (1, 1)), (7, 5)),
    "halved, centred": ((2, 2), ((1, 1), (1, 1)), (8, 6)),
    "wrapped": ((1, 1), ((1, 1), (0, 0)), (5, 8)),
    "what is left over": ((3, 2), ((0, 0), (0, 1)), (8, 7)),
}


def reference(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def draw(*shapes, dtype=jnp.float32):
    return [jax.random.normal(jax.random.key(i), shape, dtype) for i, shape in enumerate(shapes)]


@pytest.fixture
def eight_pictures_fit(monkeypatch):
    """Slices of eight pictures of 7 x 6 pixels and 5 channels, one for each device."""
    monkeypatch.setattr(convolution, "CACHE", 8 * 7 * 6 * 5 * 4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cache", [2**20, 1])
def test_derivatives_are_those_of_jax(case, cache, monkeypatch):
    """Reverse, forward, the mixed second one, and for each example; whole and in slices."""
    monkeypatch.setattr(convolution, "CACHE", cache)
    strides, padding, size = CASES[case]
    x, kernel, *more = draw((16, *size, 4), (3, 3, 4, 5), (16, *size, 4), (3, 3, 4, 5))
    ours, theirs = (lambda x, k, f=f: f(x, k, strides, padding) for f in (convolve, reference))
    scalar = lambda f: lambda x, k: jnp.sin(f(x, k)).sum()
    second = lambda f: jax.grad(lambda x, k: (jax.grad(scalar(f), 1)(x, k) ** 2).sum(), (0, 1))
    each = lambda f: jax.vmap(jax.grad(lambda k, x: scalar(f)(x[None], k)), (None, 0))
    for made in (
        lambda f: f(x, kernel),
        lambda f: jax.grad(scalar(f), (0, 1))(x, kernel),
        lambda f: jax.grad(scalar(f), 0)(x, kernel),
        lambda f: jax.jvp(f, (x, kernel), tuple(more)),
        lambda f: jax.jvp(lambda x: f(x, kernel), (x,), (more[0],)),
        lambda f: second(f)(x, kernel),
        lambda f: each(f)(kernel, x),
    ):
        got, expected = jax.jit(made, static_argnums=0)(ours), jax.jit(made, static_argnums=0)(theirs)
        near = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=3e-6 * np.abs(b).max())
        jax.tree.map(near, got, expected)


def test_slices_lose_no_precision(eight_pictures_fit):
    """Of half-precision numbers the sum over slices is kept in float32."""
    x, kernel, dy = draw((64, 7, 6, 4), (3, 3, 4, 5), (64, 7, 6, 5), dtype=jnp.bfloat16)
    gradient = lambda f, *args: jax.vjp(lambda k: f(args[0], k, (1, 1), ((1, 1), (1, 1))), args[1])[1](args[2])[0]
    exact = gradient(reference, *(a.astype(jnp.float32) for a in (x, kernel, dy)))
    error = lambda f: float(jnp.abs(gradient(f, x, kernel, dy).astype(jnp.float32) - exact).max())
    assert error(convolve) <= 1.5 * error(reference)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_gradients_in_a_loop_have_the_form_that_xla_is_fast_at(strides, eight_pictures_fit):
    """XLA rewrites other forms outside of loops alone; JAX's gradients have two of them, so that the check can fail."""
    x, kernel = draw((16, 7, 6, 4), (3, 3, 4, 5))
    forms = re.compile(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])")

    def of(f):
        loss = lambda x, k: (f(x, k, strides, ((1, 1), (1, 1))) ** 2).sum()
        step = lambda pair, _: (jax.tree.map(jnp.subtract, pair, jax.grad(loss, (0, 1))(*pair)), None)
        program = jax.jit(lambda x, k: jax.lax.scan(step, (x, k), None, length=3)[0]).lower(x, kernel)
        return set(forms.findall(program.as_text()))

    fast = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    assert of(convolve) == {fast}
    assert len(of(reference)) == 3


def test_slices_are_the_largest_that_fit_and_leave_each_device_its_part(monkeypatch):
    size = lambda batch, fit: convolution._size_of_slices(batch, batch * convolution.CACHE // fit)
    assert [size(64, fit) for fit in (100, 64, 63, 17, 9, 8, 3)] == [64, 64, 32, 16, 8, 8, 8]
    assert size(12, 3) == 12  # which eight devices cannot share
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert [size(12, fit) for fit in (12, 11, 3, 1)] == [12, 6, 3, 1]
    assert size(7, 3) == 1 and size(0, 1) == 0


def test_a_batch_on_a_mesh_is_not_gathered(eight_pictures_fit):
    x, kernel = draw((32, 7, 6, 4), (3, 3, 4, 5))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    place = lambda a, *axes: jax.device_put(a, jax.NamedSharding(mesh, jax.P(*axes)))
    loss = lambda x, k: (convolve(x, k, (1, 1), ((1, 1), (1, 1))) ** 2).sum()
    gradient = jax.jit(jax.grad(loss, (0, 1)))
    program = gradient.lower(place(x, "data"), place(kernel)).compile()
    assert "all-reduce" in program.as_text() and "all-gather" not in program.as_text()
    expected, got = gradient(x, kernel), program(place(x, "data"), place(kernel))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=3e-6 * np.abs(b).max()), got, expected)
    total = lambda x, k: jax.lax.psum(loss(x, k), "data")
    mapped = jax.shard_map(jax.grad(total, 1), mesh=mesh, in_specs=(jax.P("data"), jax.P()), out_specs=jax.P())
    np.testing.assert_allclose(jax.jit(mapped)(x, kernel), expected[1], rtol=0, atol=3e-6 * np.abs(expected[1]).max())


def test_other_devices_have_jaxs_own(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, kernel = draw((2, 7, 6, 4), (3, 3, 4, 5))
    jaxpr = jax.make_jaxpr(lambda x, k: convolve(x, k, (1, 1), ((1, 1), (1, 1))))(x, kernel)
    assert [equation.primitive.name for equation in jaxpr.eqns] == ["conv_general_dilated"]
