"""Counting a program's convolutions and matrix products from its own operations.

A multiply-add counts as two. Products with the zeros at a border count, as is usual;
those with the zeros that a stride puts between pixels in a gradient do not, so that
each gradient of a convolution that keeps the size, or halves it, counts as much as the
convolution. Sums, norms and the like are not counted: in a U-Net they are a few per
cent of the work.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count(function: Callable[..., Any], *args: Any) -> int:
    """Count the operations of one call.

    Args:
        function: made of JAX operations; it is traced and not run.
        args: arrays, or their shapes.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _of_jaxpr(jaxpr: Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inner = [_of_jaxpr(one) for value in params.values() for one in _jaxprs(value)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return max(inner)  # one of them runs
    if name == "while" and sum(inner):
        raise ValueError("products in a while loop, whose turns no one can count")
    if name == "shard_map":  # its body is one device's part
        return params["mesh"].size * sum(inner)
    return sum(inner)


def _jaxprs(value: Any) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [jaxpr for one in value for jaxpr in _jaxprs(one)]
    return []


def _dot(equation: Any) -> int:
    left = equation.invars[0].aval.shape
    (contracted, _), _ = equation.params["dimension_numbers"]
    summed = math.prod(left[axis] for axis in contracted)
    return 2 * summed * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation: Any) -> int:
    params = equation.params
    kernel = equation.invars[1].aval.shape
    # Kernel axes: features out, features in (of one group), then space.
    out_axis = params["dimension_numbers"].rhs_spec[0]
    taps = math.prod(kernel) // kernel[out_axis]
    total = 2 * taps * math.prod(equation.outvars[0].aval.shape)
    return total // math.prod(params["lhs_dilation"])
