"""The experiment layer: data, recipes, training, sampling and evaluation around the `jaxdiff` library."""
