"""Images as patches and back: squares of pixels become channels, without any parameters."""

from jaxtyping import Array, Float


def patches(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B T P"]:
    """Cut images into squares of `size` pixels, row by row: T = H W / size^2 tokens of P = size^2 C numbers."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height // size, size, width // size, size, channels).swapaxes(2, 3)
    return x.reshape(count, height * width // size**2, size**2 * channels)


def unpatches(tokens: Float[Array, "B T P"], height: int, width: int, size: int) -> Float[Array, "B H W C"]:
    """The inverse of `patches` for images of height x width pixels."""
    x = tokens.reshape(tokens.shape[0], height // size, width // size, size, size, -1).swapaxes(2, 3)
    return x.reshape(tokens.shape[0], height, width, -1)


def check_patch(shape: tuple[int, int, int], size: int) -> None:
    """Raises ValueError where `size` does not divide the height and the width of `shape`."""
    if size < 1 or shape[0] % size or shape[1] % size:
        raise ValueError(
            f"patch must divide the size {shape[0]} x {shape[1]}, got {size}; pad the images or choose a divisor"
        )
