"""The training losses of Mask R-CNN: anchors, assignment, sampling and targets as in mmdetection.

Boxes are xyxy in pixels of the network's input. N images, A anchors of an image, n objects of an
image, R sampled proposals of an image, H and W the sides of the canvas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dfvt_deploy.models import box_ops
from dfvt_deploy.models.box_ops import greedy_keep
from dfvt_deploy.models.detection import BOX_BINS, DELTA_STDS, MASK_BINS, MASK_SIZE, MaskRCNN
from dfvt_deploy.models.roi_align import pyramid_roi_align, roi_align
from dfvt_deploy.models.rpn import IOU_THRESHOLD, STRIDES, base_anchors

from .detection_data import Example

#: What the assignment gives a box that is no example of anything.
IGNORED, BACKGROUND = -2, -1


@dataclass(frozen=True)
class Assigner:
    """mmdetection's MaxIoUAssigner: a box belongs to the object that it overlaps most.

    positive: IoU from which it is an example of that object. negative: IoU below which it is
    background. least: an object that no box overlaps by `positive` takes the boxes that overlap it
    most, if that is at least this IoU.
    """

    positive: float
    negative: float
    least: float


@dataclass(frozen=True)
class Sampler:
    """mmdetection's RandomSampler: at most `count` boxes of an image, of which at most the share
    `positives` belong to objects."""

    count: int
    positives: float


@dataclass(frozen=True)
class Sampling:
    """How boxes become training examples; the published figures are the defaults.

    before_nms: best anchors of each pyramid level that the NMS of the first stage chooses from.
    proposals: of an image, after that NMS.
    masked_rois: sampled proposals of an image that the mask head is trained on; mmdetection takes
        all that belong to objects.
    """

    anchors: Assigner = Assigner(0.7, 0.3, 0.3)
    anchor_sampler: Sampler = Sampler(256, 0.5)
    rois: Assigner = Assigner(0.5, 0.5, 0.5)
    roi_sampler: Sampler = Sampler(512, 0.25)
    before_nms: int = 2000
    proposals: int = 1000
    masked_rois: int = 128


@dataclass(frozen=True)
class Truth:
    """The objects of one image: labels int64 (n,), boxes float32 (n, 4), masks float32 (n, H, W),
    1 inside."""

    labels: Tensor
    boxes: Tensor
    masks: Tensor

    @classmethod
    def of(cls, one: Example) -> "Truth":
        masks = torch.from_numpy(one.masks).float()
        return cls(torch.from_numpy(one.labels), torch.from_numpy(one.boxes), masks)


def losses(
    model: MaskRCNN, images: Tensor, image_sizes: Tensor, truths: Sequence[Truth], how: Sampling
) -> dict[str, Tensor]:
    """The five losses of a batch, which training adds up.

    images: normalised float32 (N, 3, H, W), zero outside `image_sizes`, int64 (N, 2).
    """
    features = model.neck(model.backbone(images))
    logits, deltas = model.rpn_head.predict(features)
    scores = torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in logits], 1)
    moves = torch.cat([x.permute(0, 2, 3, 1).reshape(len(images), -1, 4) for x in deltas], 1)
    anchors = all_anchors([(x.shape[2], x.shape[3]) for x in logits])
    result = _rpn_losses(anchors, scores, moves, truths, how)
    counts = [x[0].numel() for x in logits]
    levels = torch.split(anchors, counts)
    with torch.no_grad():
        proposals = [
            _proposals(levels, torch.split(score, counts), torch.split(move, counts), size, how)
            for score, move, size in zip(scores, moves, image_sizes, strict=True)
        ]
    return {**result, **_roi_losses(model, features[:4], proposals, truths, how)}


def all_anchors(sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Anchors (A, 4) of maps of these heights and widths, finest first: by level, row, column and
    ratio, the last fastest."""
    parts = []
    for (height, width), stride, base in zip(sizes, STRIDES, base_anchors(), strict=True):
        row, col = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        corner = torch.stack((col, row, col, row), -1)[:, :, None] * stride
        parts.append((corner + base).reshape(-1, 4))
    return torch.cat(parts)


def encode(boxes: Tensor, targets: Tensor) -> Tensor:
    """The deltas (..., 4) with which `box_ops.decode` moves boxes (..., 4) to targets (..., 4)."""
    size, wanted = boxes[..., 2:] - boxes[..., :2], targets[..., 2:] - targets[..., :2]
    centre = (boxes[..., 2:] + boxes[..., :2]) / 2
    wanted_centre = (targets[..., 2:] + targets[..., :2]) / 2
    return torch.cat(((wanted_centre - centre) / size, (wanted / size).log()), -1)


def overlaps(boxes: Tensor, objects: Tensor) -> Tensor:
    """IoU (m, n) of boxes (m, 4) and objects (n, 4)."""
    ax1, ay1, ax2, ay2 = boxes[:, None].unbind(-1)
    bx1, by1, bx2, by2 = objects[None].unbind(-1)
    return box_ops.iou((ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2)).nan_to_num(0)


def assign(boxes: Tensor, objects: Tensor, rule: Assigner) -> Tensor:
    """The object int64 (m,) of each box (m, 4), `BACKGROUND` or `IGNORED`; objects (n, 4)."""
    overlap = overlaps(boxes, objects)
    best, which = overlap.max(1)
    assigned = torch.full_like(which, IGNORED)
    assigned[best < rule.negative] = BACKGROUND
    assigned = torch.where(best >= rule.positive, which, assigned)
    for i, most in enumerate(overlap.amax(0)):  # in turn: a later object takes what it shares
        if most >= rule.least:
            assigned[overlap[:, i] == most] = i
    return assigned


def sample(assigned: Tensor, rule: Sampler) -> tuple[Tensor, Tensor]:
    """Positions int64 of random boxes that belong to objects, and of background."""
    positive = _some((assigned >= 0).nonzero()[:, 0], int(rule.count * rule.positives))
    negative = _some((assigned == BACKGROUND).nonzero()[:, 0], rule.count - len(positive))
    return positive, negative


def _some(positions: Tensor, count: int) -> Tensor:
    return positions[torch.randperm(len(positions))[:count]]


def _rpn_losses(
    anchors: Tensor, scores: Tensor, moves: Tensor, truths: Sequence[Truth], how: Sampling
) -> dict[str, Tensor]:
    """scores (N, A) logits, moves (N, A, 4)."""
    classification, regression, count = scores.new_zeros(()), scores.new_zeros(()), 0
    for truth, score, move in zip(truths, scores, moves, strict=True):
        assigned = assign(anchors, truth.boxes, how.anchors)
        positive, negative = sample(assigned, how.anchor_sampler)
        wanted = torch.cat((torch.ones(len(positive)), torch.zeros(len(negative))))
        chosen = score[torch.cat((positive, negative))]
        classification = classification + F.binary_cross_entropy_with_logits(
            chosen, wanted, reduction="sum"
        )
        target = encode(anchors[positive], truth.boxes[assigned[positive]])
        regression = regression + F.l1_loss(move[positive], target, reduction="sum")
        count += len(wanted)
    return {"rpn_class": classification / count, "rpn_box": regression / count}


def _proposals(
    anchors: Sequence[Tensor],
    scores: Sequence[Tensor],
    moves: Sequence[Tensor],
    image_size: Tensor,
    how: Sampling,
) -> Tensor:
    """Proposals (k, 4) of one image, best first, of each level's anchors, scores and moves.

    Boxes that clipping left without area stay, as in the model: they have to be learnt as
    background, or each of them scores what the biases of the box head say.
    """
    boxes, kept_scores = [], []
    for own_anchors, own_scores, own_moves in zip(anchors, scores, moves, strict=True):
        order = own_scores.sort(descending=True, stable=True).indices[: how.before_nms]
        decoded = box_ops.decode(own_anchors[order], own_moves[order])
        clipped = box_ops.clip(decoded[None], image_size[None])
        real = torch.ones(1, 1, len(order), dtype=torch.bool)
        keep = greedy_keep(clipped[None], real, IOU_THRESHOLD)[0, 0]
        boxes.append(clipped[0, keep])
        kept_scores.append(own_scores[order][keep])
    best = torch.cat(kept_scores).sort(descending=True, stable=True).indices[: how.proposals]
    return torch.cat(boxes)[best]


def _roi_losses(
    model: MaskRCNN,
    features: Sequence[Tensor],
    proposals: Sequence[Tensor],
    truths: Sequence[Truth],
    how: Sampling,
) -> dict[str, Tensor]:
    head = model.roi_head
    labels, targets, chosen = [], [], []
    mask_boxes, mask_labels, mask_targets = [], [], []
    for found, truth in zip(proposals, truths, strict=True):
        boxes = torch.cat((truth.boxes, found))  # the objects themselves are proposals too
        assigned = assign(boxes, truth.boxes, how.rois)
        positive, negative = sample(assigned, how.roi_sampler)
        background = torch.full_like(negative, head.num_classes)
        labels.append(torch.cat((truth.labels[assigned[positive]], background)))
        targets.append(encode(boxes[positive], truth.boxes[assigned[positive]]))
        chosen.append(boxes[torch.cat((positive, negative))])
        masked = positive[: how.masked_rois]
        mask_boxes.append(boxes[masked])
        mask_labels.append(truth.labels[assigned[masked]])
        mask_targets.append(mask_target(truth.masks, boxes[masked], assigned[masked]))
    aligned = _aligned(features, chosen, BOX_BINS)
    logits, deltas = head.bbox_head(aligned)
    label, target = torch.cat(labels), torch.cat(targets) / torch.tensor(DELTA_STDS)
    positive = (label < head.num_classes).nonzero()[:, 0]
    move = deltas.reshape(len(deltas), -1, 4)[positive, label[positive]]
    masks = head.mask_head(_aligned(features, mask_boxes, MASK_BINS), torch.cat(mask_labels))
    return {
        "class": F.cross_entropy(logits, label),
        "box": F.l1_loss(move, target, reduction="sum") / len(label),
        "mask": F.binary_cross_entropy(masks, torch.cat(mask_targets)),
    }


def _aligned(features: Sequence[Tensor], boxes: Sequence[Tensor], bins: int) -> Tensor:
    """Features (R of all images together, 256, bins, bins) of boxes (R, 4) of each image."""
    longest = max(len(own) for own in boxes)
    padded = torch.stack([F.pad(own, (0, 0, 0, longest - len(own))) for own in boxes])
    real = torch.stack([torch.arange(longest) < len(own) for own in boxes])
    return pyramid_roi_align(features, STRIDES[:4], padded, bins)[real.flatten()]


def mask_target(masks: Tensor, boxes: Tensor, which: Tensor) -> Tensor:
    """The mask float32 (R, 28, 28), 0 or 1, of object `which` int64 (R,) within each box (R, 4)."""
    if len(boxes) == 0:
        return masks.new_zeros(0, MASK_SIZE, MASK_SIZE)
    inside = roi_align(masks[:, None], boxes, which, MASK_SIZE, 1)[:, 0]
    return (inside >= 0.5).float()
