"""The DFvT backbone (Gao et al., ECCV 2022), which the classifier and the dense models share.

Shapes: N batch, Ci channels of stage i, H and W the height and width of the map at hand.

Module names follow the published checkpoints, key for key.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import AttentionStage, PatchEmbed, SpatialModule, multiresolution_conv, space_to_depth
from .variants import BackboneConfig


def _to_tokens(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _to_map(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


class Backbone(nn.Module):
    """The layers that the classifier and the dense backbone share. `shift_odd` says for each stage
    whether every second block shifts its windows; `padded` as in `WindowAttention`."""

    def __init__(
        self, config: BackboneConfig, *, shift_odd: tuple[bool, ...], padded: bool
    ) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.embed_dim)
        self.layers = nn.ModuleList(
            AttentionStage(config, i, shift_odd=shift_odd[i], padded=padded) for i in range(4)
        )
        self.convlayers = nn.ModuleList(
            SpatialModule(c, stride=2 if i < 3 else 1) for i, c in enumerate(config.channels)
        )
        self.multiresolution_conv = nn.ModuleList(
            multiresolution_conv(c) for c in config.channels[:3]
        )

    def forward_stage(self, stage: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run one stage on its input (N, Ci, H, W). Returns the tokens (N, H', W', Ci), before
        their channels are doubled, and the convolution features (N, Ci, H, W). H' is H/2, in the
        last stage H."""
        x_sp, x_inter = self.convlayers[stage](x)
        if stage < 3:
            x_cnn = self.multiresolution_conv[stage](space_to_depth(x_sp))
            x = F.max_pool2d(x, 3, 2, 1)
        else:
            x_cnn = x
        tokens = self.layers[stage](_to_tokens(x + x_inter), _to_tokens(x_cnn))
        return tokens, x_sp

    def widen(self, stage: int, tokens: Tensor) -> Tensor:
        """Turn the tokens of stage 0, 1 or 2 into the next stage's input (N, 2Ci, H', W')."""
        return _to_map(self.layers[stage].get_submodule("downsample")(tokens))


class DenseBackbone(Backbone):
    """Multi-scale features for detection and segmentation, for sides that are multiples of 32."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config, shift_odd=(True,) * 4, padded=True)
        c = config.channels
        self.norm0, self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(ci) for ci in c)
        self.conv1x1layers = nn.ModuleList(nn.Conv2d(2 * ci, ci, 1, bias=False) for ci in c[:3])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map normalised images (N, 3, H, W) to four maps (N, Ci, H / 2**(i+2), W / 2**(i+2))."""
        x = self.patch_embed(images)
        norms = (self.norm0, self.norm1, self.norm2, self.norm3)
        outputs = []
        for i, norm in enumerate(norms):
            tokens, x_sp = self.forward_stage(i, x)
            out = _to_map(norm(tokens))
            if i < 3:
                out = F.interpolate(out, scale_factor=2.0, mode="nearest")
                out = self.conv1x1layers[i](torch.cat((out, x_sp), dim=1))
                x = self.widen(i, tokens)
            outputs.append(out)
        return outputs[0], outputs[1], outputs[2], outputs[3]
