"""Picklable named tuples of functions: stored as the factory call that made them.

A sampler or schedule is a tuple of closures, which pickle cannot store. What it can
store is the call that made them: a factory by its name, and its arguments.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, SupportsIndex, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T", bound="Picklable")


class Picklable:
    """A mixin for named tuples: pickled and copied as the call that made them.

    Attributes:
        made_by: (factory, arguments, keyword arguments), set by `picklable`; None for a
            tuple that was put together by hand, which pickle treats as any other.
    """

    made_by: tuple[Callable[..., Any], tuple, dict[str, Any]] | None = None

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """Return what pickle needs to call the function again."""
        if self.made_by is None:
            return super().__reduce_ex__(protocol)
        factory, args, kwargs = self.made_by
        return functools.partial(factory, *args, **kwargs), ()


def picklable(factory: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a module's function store its arguments in what it returns.

    Args:
        factory: returns a new `Picklable` at each call.
    """

    @functools.wraps(factory)
    def make(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        made = factory(*args, **kwargs)
        made.made_by = (make, args, kwargs)
        return made

    return make
