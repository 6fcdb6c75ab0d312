"""A text as a condition, read by a frozen CLIP-style dual encoder.

The network is given the vectors of the text's tokens, the text embedding as one further
token, and the embedding as the vector for the whole.

Source: Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP
    Latents", section 2.2: text tokens and the text embedding in the prior's sequence.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from ddpm_jax import limits
from ddpm_jax.conditioning.clip import Clip
from ddpm_jax.conditioning.encoded_text import Tokenizer, distinct
from ddpm_jax.conditioning.text import Text, TextSpec
from ddpm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ClipText(TextSpec):
    """A text read by a trained dual encoder (CLIP), whose run it names.

    Attributes:
        run: the folder of the dual encoder.
    """

    run: str = ""
    length: int | None = dataclasses.field(default=None, init=False)  # of the run

    opens: ClassVar[str] = "contrastive"

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.names_run(self, "dual encoder", "runs/shapes_clip")

    def learn(self, texts: Sequence[str], opened: Any = None) -> Tokenizer:
        """Take the dual encoder for the tokenizer; see `TextSpec.learn`.

        Args:
            texts: the captions, N of them.
            opened: the dual encoder, a `Clip`.

        Raises:
            UserError: it cannot read one.
        """
        assert isinstance(opened, Clip)  # of the kind that `opens` names
        try:
            opened.tokenize(distinct(texts)[0])
        except UserError as error:
            raise UserError(
                f"{opened.name} cannot read a caption: {error} Or train it on these "
                "captions."
            ) from error
        return opened

    def for_data(self, data: Any) -> Text:
        """Make the conditioner, whose rows come encoded; see `TextSpec`."""
        sizes = data.runs[self.opens].sizes
        return Text(sizes["length"], sizes["token_width"], None, sizes["width"])
