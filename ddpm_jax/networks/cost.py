"""FLOPs of a function, counted in its jaxpr: nothing is compiled or run.

Counted are convolutions and matrix products, which are nearly all of a network's work;
a multiplication and the addition after it count two, as hardware makers count. Zeros
that a convolution's padding adds count as if they were data, which is the custom; zeros
that the gradient of a strided convolution puts between data do not.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Count the floating-point operations of one call.

    A loop of known length counts as often as it turns; of branches the dearest counts;
    a block that is computed again in a backward pass (`remat`) counts again.

    Args:
        function: any that JAX can trace; close over what is not an array.
        *args: arrays, or `jax.ShapeDtypeStruct`s in their place, and trees of them.
        **kwargs: likewise.

    Raises:
        ValueError: a `while` loop, whose length cannot be known.
    """
    return _count(jax.make_jaxpr(function)(*args, **kwargs).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: core.JaxprEqn) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inner = [_count(jaxpr) for jaxpr in _inside(equation.params)]
    if name == "while" and any(inner):
        raise ValueError(
            "a while loop turns an unknown number of times; count its body instead."
        )
    if name == "scan":
        return equation.params["length"] * sum(inner)
    return max(inner, default=0) if name == "cond" else sum(inner)


def _inside(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Find the programs that an equation runs: a loop's body, a call's function."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    terms = math.prod(left[axis] for axis in contracted)
    return 2 * terms * equation.outvars[0].aval.size


def _convolution(equation: Any) -> int:
    """Each output sums over a window and the input channels of its group."""
    _, channel_axis, *window_axes = equation.params["dimension_numbers"].rhs_spec
    kernel = equation.invars[1].aval.shape
    terms = kernel[channel_axis] * math.prod(kernel[axis] for axis in window_axes)
    dense = 2 * terms * equation.outvars[0].aval.size
    return dense // math.prod(equation.params["lhs_dilation"])
