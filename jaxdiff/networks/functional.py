"""A Flax NNX module as two pure functions: init(key) -> params, apply(params, x_t, t, cond) -> output.

The module's structure is found once, without computing anything; the parameters are a plain nested dict with
string keys. EMA, Optax, Orbax, `jax.jit` and `pmap` thus see arrays and nothing of Flax, and a compiled call
costs what its number of arrays costs.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from jaxdiff.types import Condition, Data, Params, Time


def functional(
    make: Callable[[nnx.Rngs], nnx.Module],
) -> tuple[Callable[[Key[Array, ""]], Params], Callable[..., Any]]:
    """Split a module into `(init, apply)`.

    Args:
        make: builds the module from its `nnx.Rngs`; called here once for the structure and once when `init` compiles.

    Returns:
        init: `init(key) -> params`, compiled; the same key gives the same parameters, under `jax.jit` too.
        apply: `apply(params, x_t, t, cond=None, *, s=None, key=None)`, a pure function for jit, grad, vmap and remat.
            Keep it: each call of `functional` gives a new function, and a new function is traced anew.

    Raises:
        ValueError: the module holds arrays that are not `nnx.Param`; at a call: `params` are of another module.

    Example:
        >>> init, apply = functional(lambda rngs: MLP((2,), width=64, rngs=rngs))
        >>> params = init(jax.random.key(0))
        >>> apply(params, jnp.zeros((8, 2)), 0.5).shape
        (8, 2)
    """
    merge = structure(make)

    @jax.jit
    def init(key: Key[Array, ""]) -> Params:
        return _named(nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), nnx.Param)))

    def apply(
        params: Params,
        x_t: Data,
        t: Time,
        cond: Condition = None,
        *,
        s: Time | None = None,
        key: Key[Array, "..."] | None = None,
    ) -> Float[Array, "..."]:
        return merge(params)(x_t, t, cond, s=s, key=key)

    return init, apply


def in_compute_dtype(make: Callable[[nnx.Rngs], nnx.Module]) -> Callable[[Params], Params]:
    """`cast(params) -> params` for `apply`, each array in the dtype that its layer computes in: for sampling.

    A layer casts its float32 kernel in every call, and a sampler's loop over steps does so in every step. Cast before,
    the parameters of a network in half precision take half the memory, and the output is the same but for what the
    compiler then fuses otherwise. What is computed in float32 stays so: the embeddings, the scales of norms. Training
    needs the float32 parameters.

    Args:
        make: as `functional` takes it.

    Returns:
        `cast`; arrays that are in their dtype already come back as they are, so that casting again costs nothing.

    Example:
        >>> make = lambda rngs: MLP((2,), width=64, dtype=jnp.bfloat16, rngs=rngs)
        >>> (init, apply), cast = functional(make), in_compute_dtype(make)
        >>> params = cast(init(jax.random.key(0)))
        >>> params["out"]["kernel"].dtype, params["embedding"]["time"]["last"]["kernel"].dtype
        (dtype(bfloat16), dtype('float32'))
    """
    dtypes = {
        (*map(str, path), name): vars(module)["dtype"]
        for path, module in nnx.iter_modules(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
        for name, value in vars(module).items()
        if isinstance(value, nnx.Param) and "dtype" in vars(module)
    }

    def cast(params: Params) -> Params:
        def one(path: tuple[Any, ...], a: Array) -> Array:
            dtype = dtypes.get(tuple(entry.key for entry in path), a.dtype)
            return a if a.dtype == dtype else a.astype(dtype)

        return jax.tree_util.tree_map_with_path(one, params)

    return cast


def structure(make: Callable[[nnx.Rngs], nnx.Module]) -> Callable[[Params], Any]:
    """`merge(params) -> module`, the module that `make` builds with the parameters that its `init` gives.

    Raises:
        ValueError: as `functional` does.
    """
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    foreign = [f"{'.'.join(map(str, path))} ({type(leaf).__name__})" for path, leaf in nnx.to_flat_state(state)
               if not isinstance(leaf, nnx.Param)]  # fmt: skip
    if foreign:
        raise ValueError(
            f"a network must hold nnx.Param alone, since apply cannot return other state, got {', '.join(foreign)}; "
            "pass keys at the call, use norms without running averages, and do not keep the nnx.Rngs"
        )
    template = nnx.to_pure_dict(state)
    return lambda params: nnx.merge(graphdef, nnx.State(_numbered(params, template)))


def _named(tree: Any) -> Any:
    """`nnx.List` numbers its children; Orbax and `jax.tree` want keys of one type."""
    return {str(name): _named(child) for name, child in tree.items()} if isinstance(tree, dict) else tree


def _numbered(params: Any, template: Any) -> Any:
    """The inverse of `_named`: the keys of `template` with the arrays of `params`."""
    if not isinstance(template, dict):
        return params
    names = {str(name): name for name in template}
    if not isinstance(params, dict) or names.keys() != params.keys():
        came = sorted(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(f"params must have the keys {sorted(names)}, got {came}; use the init that came with apply")
    return {names[name]: _numbered(child, template[names[name]]) for name, child in params.items()}
