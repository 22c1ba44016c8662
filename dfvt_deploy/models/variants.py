"""The published sizes of DFvT."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..types import Variant


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes of one backbone: channels of the first stage, of which each further one has twice as
    many, blocks and attention heads of each stage, and the hidden width of an MLP over its
    channels."""

    embed_dim: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    mlp_ratio: int

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four stages, which are also those of the dense outputs."""
        c = self.embed_dim
        return c, 2 * c, 4 * c, 8 * c


VARIANTS: Mapping[Variant, BackboneConfig] = {
    Variant.T: BackboneConfig(48, (1, 1, 2, 1), (3, 6, 12, 24), 4),
    Variant.S: BackboneConfig(96, (1, 1, 2, 1), (3, 6, 12, 24), 2),
    Variant.B: BackboneConfig(128, (2, 2, 6, 2), (4, 8, 16, 32), 2),
}
