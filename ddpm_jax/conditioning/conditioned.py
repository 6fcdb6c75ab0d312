"""A network with its conditioners, as one module; it knows the names of neither.

Its parameters are those of the network, and beside them, by name, those of the
conditioners' embedders: what is not conditioned has the parameters of the bare network.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from ddpm_jax.conditioning.conditioner import (
    NEGATIVE,
    Cond,
    Conditioner,
    Embedder,
    Rows,
    names,
)
from ddpm_jax.errors import UserError
from ddpm_jax.networks.ports import join_ports


class Conditioned(nn.Module):
    """A network that is called with conditions instead of ports.

    Attributes:
        network: (x_t, t, ports, *, train) -> output; its `embedding_width` is E, the
            width of the vector port.
        conditioners: by name.
    """

    network: Any
    conditioners: Mapping[str, Conditioner]

    def setup(self) -> None:
        """Make an embedder for each conditioner, among the network's parameters."""
        nn.share_scope(self, self.network)
        for name, conditioner in self.conditioners.items():
            taken = name == NEGATIVE or hasattr(self, name)
            if taken or not name.isidentifier():
                raise UserError(
                    f"a conditioner cannot be called {name!r}; use another name, of "
                    "letters, digits and _."
                )
            setattr(self, name, conditioner.embedder(self.network.embedding_width))

    def __call__(
        self,
        x_t: jax.Array,
        t: jax.Array,
        cond: Mapping[str, Rows] | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Predict from noisy data.

        Args:
            x_t: [B, ...].
            t: times, [B].
            cond: rows [B, ...] by the names of the conditioners; what is left out has
                the null condition.
            train: whether dropout acts; then `rngs={"dropout": key}` is needed.

        Returns:
            What the network returns.

        Raises:
            UserError: a condition is of none of the conditioners, or one is missing
                that is required.
        """
        cond = dict(cond or {})
        self._check_names(cond)
        ports = [
            self._embedder(name)(self._rows(name, cond, x_t), train=train)
            for name in names(self.conditioners)
        ]
        return self.network(x_t, t, join_ports(ports), train=train)

    def encode(self, cond: Mapping[str, Rows] | None) -> Cond | None:
        """Do what the embedders can do once before a chain, negative rows included.

        Args:
            cond: rows [B, ...], perhaps with `NEGATIVE` among them.

        Returns:
            The condition for `__call__`; None is None.
        """
        if cond is None:
            return None
        encoded: Cond = dict(cond)
        if NEGATIVE in cond:
            encoded[NEGATIVE] = self.encode(cond[NEGATIVE])
        for name in self.conditioners:
            if name in cond:
                encoded[name] = self._embedder(name).encode(cond[name])
        return encoded

    def _embedder(self, name: str) -> Embedder:
        found: Embedder = getattr(self, name)
        return found

    def _rows(self, name: str, cond: Mapping[str, Rows], x_t: jax.Array) -> Rows:
        if name in cond:
            return cond[name]
        conditioner = self.conditioners[name]
        if conditioner.required and not self.is_initializing():
            raise UserError(
                f"this network needs the condition {name!r}, and there is none; give "
                f"it as cond[{name!r}]."
            )
        return conditioner.null(conditioner.example(len(x_t), x_t.shape[1:]))

    def _check_names(self, cond: Mapping[str, Rows]) -> None:
        for name in cond:
            if name not in self.conditioners and name != NEGATIVE:
                known = ", ".join(names(self.conditioners)) or "nothing"
                raise UserError(
                    f"got the condition {name!r}, and this network is conditioned on "
                    f"{known}; give the model a conditioner for it, or leave it out."
                )


def as_network(module: Any) -> Callable[..., jax.Array]:
    """Make of a module (x_t, t, cond, *, train) a function of its parameters.

    Args:
        module: such as a `Conditioned`.

    Returns:
        (params, x_t, t, cond=None, dropout_key=None) -> output: with a dropout key the
        network is in training, without one it is not.
    """

    def apply(
        params: Any,
        x_t: jax.Array,
        t: jax.Array,
        cond: Any = None,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        rngs = None if dropout_key is None else {"dropout": dropout_key}
        train = dropout_key is not None
        output: jax.Array = module.apply(
            {"params": params}, x_t, t, cond, train=train, rngs=rngs
        )
        return output

    return apply


def encode(module: Any, params: Any, cond: Mapping[str, Rows] | None) -> Cond | None:
    """Encode a condition once before a chain; see `Conditioned.encode`.

    Args:
        module: a `Conditioned`.
        params: its parameters.
        cond: rows [B, ...], or None.
    """
    if not cond:
        return None
    encoded: Cond = module.apply({"params": params}, cond, method="encode")
    return encoded
