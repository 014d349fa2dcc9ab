"""Several classes on one canvas: the layout in words, and its denoiser."""
