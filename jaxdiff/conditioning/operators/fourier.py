"""Some frequencies of a picture: A x (B, H, W, C, 2) are real and imaginary parts where the mask is True. MRI."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdiff.conditioning.operators.protocol import scaled
from jaxdiff.types import Time, is_traced, pytree


@pytree
class Fourier:
    """The orthonormal two-dimensional transform of each channel, zero where a frequency is not measured; A A' = 1.

    Args:
        mask: bool (H, W), in the order of `jnp.fft.fft2`: the constant first. With each frequency its opposite, whose
            value is the conjugate in a real picture; `Fourier.rows` makes such a mask.

    Raises:
        ValueError: another dtype or shape, or a frequency without its opposite.
    """

    mask: Bool[Array, "H W"] | Bool[np.ndarray, "H W"]

    def __post_init__(self):
        if self.mask.ndim != 2 or self.mask.dtype != bool:
            raise ValueError(f"mask must be bool (H, W), got {self.mask.dtype}{list(self.mask.shape)}")
        if not is_traced(self.mask) and (np.asarray(self.mask) != _opposite(np.asarray(self.mask))).any():
            raise ValueError(
                "a real picture has conjugate values at opposite frequencies, so mask must hold both or none; use "
                "mask | opposite, or Fourier.rows"
            )

    @classmethod
    def rows(cls, height: int, width: int, count: int) -> "Fourier":
        """The `count` lowest rows of frequencies, an odd number: a Cartesian scan of the centre."""
        if count % 2 == 0 or not 1 <= count <= height:
            raise ValueError(f"count must be odd and in [1, {height}], got {count}: rows come with their opposites")
        kept = np.abs(np.fft.fftfreq(height, 1 / height)) <= count // 2
        return cls(mask=np.broadcast_to(kept[:, None], (height, width)).copy())

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C 2"]:
        if x.shape[1:3] != self.mask.shape:
            raise ValueError(f"mask is of {self.mask.shape} frequencies, and the data have shape {x.shape}")
        z = jnp.fft.fft2(x, axes=(1, 2), norm="ortho") * self.mask[None, :, :, None]
        return jnp.stack([z.real, z.imag], -1)

    def adjoint(self, y: Float[Array, "B H W C 2"]) -> Float[Array, "B H W C"]:
        z = (y[..., 0] + 1j * y[..., 1]) * self.mask[None, :, :, None]
        return jnp.fft.ifft2(z, axes=(1, 2), norm="ortho").real

    def solve(self, y: Float[Array, "B H W C 2"], a: Time, b: Time) -> Float[Array, "B H W C 2"]:
        return scaled(y, 1.0, a, b)


def _opposite(mask: np.ndarray) -> np.ndarray:
    """The mask at the negative of each frequency."""
    return np.roll(mask[::-1, ::-1], (1, 1), (0, 1))
