"""Training state: all that is carried from step to step."""

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class TrainState:
    """The whole of a run: two equal states go on to equal parameters.

    Nothing random is here. The keys of a step are derived from (seed, step), which is
    what makes resuming exact.
    """

    step: jax.Array  # [], int32: optimizer steps taken
    params: Any  # float32, as trained
    ema_params: Any  # float32, their exponential moving average: what is sampled
    opt_state: Any  # optax's
    ema_profiles: Any = ()  # float32, power-function EMAs: see training/ema.py
    carry: Any = ()  # of the objective, arrays, if any
