"""A least-recently-used cache of values, such as compiled programs."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by name, of which the most recently used ones are kept."""

    def __init__(self, most: int) -> None:
        """Keep nothing yet.

        Args:
            most: values that are kept.
        """
        self._most = most
        self._kept: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, name: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a name; it is made if it is not kept."""
        if name not in self._kept:
            self._kept[name] = make()
        self._kept.move_to_end(name)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return self._kept[name]
