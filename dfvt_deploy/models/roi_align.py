"""RoIAlign over the feature pyramid: own code in eager PyTorch, the ONNX operator when exported.

Both sample adaptively, ceil(side / bins) points per bin and axis, with the half-pixel offset.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

#: A box of side sqrt(width * height) goes to level floor(log2(side / 56)), clamped.
FINEST_SIDE = 56


def pyramid_roi_align(
    features: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, bins: int
) -> Tensor:
    """Features (N * K, C, bins, bins) of boxes (N, K, 4) in input pixels, each taken from the level
    of the box; an empty box gives zeros. `features` are a map (N, C, H / stride, W / stride) per
    stride, the finest first. When exported, every level samples as many boxes as there are."""
    batch, count, _ = boxes.shape
    image = torch.arange(batch, device=boxes.device)[:, None].expand(-1, count).flatten()
    boxes = boxes.flatten(0, 1)
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level_of = (side / FINEST_SIDE + 1e-6).log2().floor().clamp(0, len(features) - 1).long()
    levels = enumerate(zip(features, strides, strict=True))
    if not torch.onnx.is_in_onnx_export():
        result = boxes.new_zeros(len(boxes), features[0].shape[1], bins, bins)
        for level, (feature, stride) in levels:
            rows = (level_of == level).nonzero()[:, 0]
            if len(rows):
                result[rows] = roi_align(feature, boxes[rows], image[rows], bins, stride)
        return result
    # Runtimes differ in what RoiAlign gives for a box without area or outside the map: zeros or
    # NaN. So a level samples a part of its first cell in place of each empty box and of each box of
    # another level, and Where drops what was sampled there.
    scale = boxes.new_tensor([1 / stride for stride in strides])[level_of][:, None]
    scaled = boxes * scale - 0.5  # as RoiAlign computes them: small boxes are empty by rounding
    empty = (scaled[:, 2] <= scaled[:, 0]) | (scaled[:, 3] <= scaled[:, 1])
    level_of = torch.where(empty, -1, level_of)
    out = boxes.new_zeros(())
    for level, (feature, stride) in levels:
        here = level_of == level
        corner = boxes.new_tensor([stride / 2, stride / 2, stride, stride])
        sampled = torch.where(here[:, None], boxes, corner).reshape(-1, 4)
        aligned = _RoIAlign.apply(  # type: ignore[no-untyped-call]
            feature, sampled, image, bins, stride
        )
        out = torch.where(here[:, None, None, None], aligned, out)
    return out


class _RoIAlign(torch.autograd.Function):
    """The ONNX operator RoiAlign, for use while exporting."""

    @staticmethod
    def forward(
        ctx: Any, feature: Tensor, boxes: Tensor, image: Tensor, bins: int, stride: int
    ) -> Tensor:
        return feature.new_zeros(len(boxes), feature.shape[1], bins, bins)

    @staticmethod
    def symbolic(g: Any, feature: Any, boxes: Any, image: Any, bins: int, stride: int) -> Any:
        # Every attribute is written out: runtimes differ in their defaults.
        return g.op(
            "RoiAlign",
            feature,
            boxes,
            image,
            coordinate_transformation_mode_s="half_pixel",
            mode_s="avg",
            output_height_i=bins,
            output_width_i=bins,
            sampling_ratio_i=0,
            spatial_scale_f=1 / stride,
        )


def roi_align(feature: Tensor, boxes: Tensor, image: Tensor, bins: int, stride: int) -> Tensor:
    """Features (R, C, bins, bins) of boxes (R, 4) in input pixels, each of an image int64 (R,),
    from one map (N, C, H, W) with `stride` input pixels to one of its own. The samples of a bin
    form a grid, so a pixel's weight in the bin's mean is the product of a weight by row and one by
    column. Each bin is then a weighted sum of a few feature vectors, which `embedding_bag` computes
    for any number of terms per bin."""
    channels, height, width = feature.shape[1:]
    scaled = boxes * (1 / stride) - 0.5
    by_row = _axis_weights(scaled[:, 1], scaled[:, 3], bins, height)
    by_col = _axis_weights(scaled[:, 0], scaled[:, 2], bins, width)
    row_count, col_count = (by_row != 0).sum(2), (by_col != 0).sum(2)  # (R, bins)
    row_first, col_first = _starts(row_count), _starts(col_count)
    row_roi, row_bin, rows = by_row.nonzero(as_tuple=True)
    col_roi, col_bin, cols = by_col.nonzero(as_tuple=True)
    row_weights, col_weights = by_row[row_roi, row_bin, rows], by_col[col_roi, col_bin, cols]
    rows = (image[row_roi] * height + rows) * width

    terms = (row_count[:, :, None] * col_count[:, None, :]).flatten()
    first_term = _starts(terms)
    bag = torch.repeat_interleave(terms)
    term = torch.arange(len(bag), device=bag.device) - first_term[bag]
    per_row = col_count[:, None, :].expand(-1, bins, -1).flatten()[bag]
    row = row_first[:, :, None].expand(-1, -1, bins).flatten()[bag] + term // per_row
    col = col_first[:, None, :].expand(-1, bins, -1).flatten()[bag] + term % per_row
    table = feature.permute(0, 2, 3, 1).reshape(-1, channels)
    pixels, weights = rows[row] + cols[col], row_weights[row] * col_weights[col]
    out = F.embedding_bag(pixels, table, first_term, mode="sum", per_sample_weights=weights)
    return out.reshape(-1, bins, bins, channels).permute(0, 3, 1, 2)


def _starts(counts: Tensor) -> Tensor:
    """The start of each run when runs of these lengths are laid end to end, in the same shape."""
    flat = counts.flatten()
    return (flat.cumsum(0) - flat).reshape(counts.shape)


def _axis_weights(start: Tensor, end: Tensor, bins: int, length: int) -> Tensor:
    """The weight (R, bins, length) of each of `length` pixels in each bin's mean along one axis."""
    extent = end - start
    size = (extent / bins)[:, None, None]
    count = size.ceil()
    sample = torch.arange(int(count.max()), device=start.device)
    position = torch.arange(bins, device=start.device)[:, None]
    at = start[:, None, None] + position * size + (sample + 0.5) * size / count
    used = (sample < count) & (at >= -1) & (at <= length)
    at = at.clamp(0, length - 1)
    low = torch.where(used, at, 0).long()
    fraction = at - low
    weights = start.new_zeros(len(start), bins, length)
    weights.scatter_add_(2, low, torch.where(used, (1 - fraction) / count, 0))
    high = (low + 1).clamp(max=length - 1)
    weights.scatter_add_(2, high, torch.where(used, fraction / count, 0))
    return weights
