"""Activation memory: the bytes kept between the forward and the backward pass."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def num_bytes(tree: Any) -> int:
    """Add up the bytes of all arrays, or descriptions of arrays, in a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def saved_bytes(function: Callable[..., Any], params: Any, *args: Any) -> int:
    """Count the bytes that JAX keeps for the gradient of a function by its parameters.

    These are the results of the forward pass that the backward pass will use, read off
    the traced program; nothing is compiled. A compiler may keep fewer (it may compute
    some again) and needs room for the work at hand besides. The parameters themselves
    are not counted.

    Args:
        function: (params, *args) -> array.
        params: a tree of arrays or of `jax.ShapeDtypeStruct`s.
        *args: likewise.
    """

    def kept(params, *args):
        return jax.vjp(lambda p: function(p, *args), params)[1]

    jaxpr = jax.make_jaxpr(kept)(params, *args).jaxpr
    ours = jaxpr.invars[: len(jax.tree.leaves(params))]
    remembered = {id(v): v.aval for v in jaxpr.outvars if isinstance(v, core.Var)}
    others = [remembered[i] for i in remembered.keys() - {id(v) for v in ours}]
    return num_bytes(others)
