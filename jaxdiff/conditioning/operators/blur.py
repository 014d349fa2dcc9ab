"""Convolution with a kernel on a circle: A x of a picture (B, H, W, C) has its size. Deblurring."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from jaxdiff.types import Time, expand, pytree

_SMALL = 1e-4  # of the largest frequency: what is weaker is not in the range, for numbers of float32


@pytree
class Blur:
    """A picture convolved with a kernel whose centre is its middle, edges joined; diagonal in the Fourier basis.

    Args:
        kernel: (h, w) of odd sizes, not larger than the picture; `Blur.gaussian` makes one.

    Raises:
        ValueError: a kernel of another form; when called, one larger than the picture.
    """

    kernel: Float[Array, "h w"] | Float[np.ndarray, "h w"]

    def __post_init__(self):
        shape = np.shape(self.kernel)
        if len(shape) != 2 or not all(n % 2 for n in shape):
            raise ValueError(f"kernel must be a matrix of odd sizes, so that it has a middle, got shape {shape}")

    @classmethod
    def gaussian(cls, std: float, *, radius: int | None = None) -> "Blur":
        """A Gaussian of `std` pixels, cut at `radius`, 3 std by default, of sum 1."""
        if not std > 0:
            raise ValueError(f"std must be positive, in pixels, got {std}")
        reach = np.arange(-(radius or int(np.ceil(3 * std))), (radius or int(np.ceil(3 * std))) + 1)
        row = np.exp(-0.5 * (reach / std) ** 2)
        return cls(kernel=np.outer(row, row) / row.sum() ** 2)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return self._filter(x, self._transfer(x))

    def adjoint(self, y: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return self._filter(y, jnp.conj(self._transfer(y)))

    def solve(self, y: Float[Array, "B H W C"], a: Time, b: Time) -> Float[Array, "B H W C"]:
        power = jnp.abs(self._transfer(y)) ** 2
        total = expand(a, y) * power + expand(b, y)
        inside = (power > _SMALL**2 * power.max()) | (expand(b, y) > 0)
        return self._filter(y, jnp.where(inside, 1 / jnp.where(inside, total, 1.0), 0.0))

    def _transfer(self, x: Float[Array, "B H W C"]) -> Complex[Array, "1 H F 1"]:
        kernel, (height, width) = jnp.asarray(self.kernel, x.dtype), x.shape[1:3]
        h, w = kernel.shape
        if h > height or w > width:
            raise ValueError(f"a kernel of {h} x {w} is larger than the picture of {height} x {width}; shorten it")
        whole = jnp.pad(kernel, ((0, height - h), (0, width - w)))
        return jnp.fft.rfft2(jnp.roll(whole, (-(h // 2), -(w // 2)), (0, 1)))[None, :, :, None]

    def _filter(self, x: Float[Array, "B H W C"], factor: Array) -> Float[Array, "B H W C"]:
        return jnp.fft.irfft2(jnp.fft.rfft2(x, axes=(1, 2)) * factor, s=x.shape[1:3], axes=(1, 2))
