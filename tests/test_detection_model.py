"""Mask R-CNN against the published implementation, and its parts against plain versions."""

import math

import numpy as np
import pytest
import torch

from dfvt_deploy.compare.detection import match_detections
from dfvt_deploy.models import box_ops, build_model
from dfvt_deploy.models.box_ops import iou
from dfvt_deploy.models.detection import MODEL, Detections
from dfvt_deploy.models.roi_align import pyramid_roi_align, roi_align
from dfvt_deploy.models.rpn import STRIDES
from dfvt_deploy.tasks.images import normalise
from dfvt_deploy.types import InputKind, Nms, Variant

from .fixtures import REFERENCE, dense_state_dict
from .reference import fixture_weights


def inference_state(variant):
    weights = dense_state_dict(f"det_{variant}")
    return {k: v for k, v in weights.items() if not k.endswith(fixture_weights.DERIVED)}


def fixture_model(variant):
    model = build_model("detection", variant)
    model.load_state_dict(inference_state(variant))
    return model


@pytest.fixture(scope="module", params=list(Variant), ids=str)
def published(request):
    """A variant with fixture weights, and what the published code made of it."""
    golden = np.load(REFERENCE / f"golden_det_{request.param}.npz")
    return fixture_model(request.param), {k: golden[k] for k in golden.files}


@pytest.fixture(scope="module")
def small():
    return fixture_model(Variant.T)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def golden_input(golden):
    images = fixture_weights.image(str(golden["input_name"]), *golden["input_shape"])
    return torch.from_numpy(images), torch.from_numpy(golden["img_shape"][None, :2])


@pytest.mark.parametrize("variant", Variant, ids=str)
def test_keys_and_shapes_are_the_published_ones(variant):
    with torch.device("meta"):
        state = build_model("detection", variant).state_dict()
    expected = inference_state(variant)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}


def test_each_stage_equals_the_published(published):
    model, golden = published
    images, image_sizes = golden_input(golden)
    pyramid = model.neck(model.backbone(images))
    for i, level in enumerate(pyramid):
        flat = level.transpose(0, 1).flatten(1)
        np.testing.assert_allclose(flat.mean(1), golden["fpn_mean"][i], rtol=0, atol=1e-4)
        np.testing.assert_allclose(flat.std(1), golden["fpn_std"][i], rtol=0, atol=1e-4)
    for name, levels in zip(("logits", "deltas"), model.rpn_head.predict(pyramid), strict=True):
        for i, level in enumerate(levels):
            np.testing.assert_allclose(level, golden[f"rpn_{name}{i}"], rtol=0, atol=1e-4)

    stored = (
        [torch.from_numpy(golden[f"rpn_{n}{i}"]) for i in range(5)] for n in ("logits", "deltas")
    )
    boxes, scores = model.rpn_head.propose(*stored, image_sizes)
    np.testing.assert_allclose(boxes[0], golden["proposals_all"][:, :4], rtol=0, atol=0.01)
    np.testing.assert_allclose(scores[0], golden["proposals_all"][:, 4], rtol=0, atol=1e-6)

    proposals = torch.from_numpy(golden["proposals"][None, :, :4])
    aligned = pyramid_roi_align(pyramid[:4], STRIDES[:4], proposals, 7)
    logits, deltas = model.roi_head.bbox_head(aligned)
    np.testing.assert_allclose(logits, golden["roi_cls_logits"], rtol=0, atol=2e-4)
    np.testing.assert_allclose(deltas, golden["roi_deltas"], rtol=0, atol=2e-4)

    boxes = torch.from_numpy(golden["boxes"][None, :20] * golden["scale_factor"])
    aligned = pyramid_roi_align(pyramid[:4], STRIDES[:4], boxes, 14)
    masks = model.roi_head.mask_head(aligned, torch.from_numpy(golden["labels"][:20]))
    np.testing.assert_allclose(masks, golden["mask_probs"], rtol=0, atol=1e-4)


def test_detections_equal_the_published(published):
    model, golden = published
    (found,) = model(*golden_input(golden))
    scaled = Detections(
        found.boxes / torch.from_numpy(golden["scale_factor"]),
        found.scores,
        found.labels,
        found.masks,
    )
    expected = Detections(golden["boxes"], golden["scores"], golden["labels"], golden["mask_probs"])
    result = match_detections(expected, scaled, min_iou=0.98)
    same = result.pairs[result.score_gaps <= 1e-4]
    assert len(same) >= 0.99 * len(golden["scores"])
    assert result.box_px.max() < 0.02
    first = same[same[:, 0] < 20]
    assert len(first) == 20
    for a, b in first:
        np.testing.assert_allclose(found.masks[b], golden["mask_probs"][a], rtol=0, atol=1e-3)


def test_batch_gives_each_image_what_it_gives_alone(small):
    images = torch.from_numpy(fixture_weights.image("batch", 2, 64, 96))
    image_sizes = torch.tensor([[64, 96], [33, 90]])
    together = small(images, image_sizes)
    for i in range(2):
        (alone,) = small(images[i : i + 1], image_sizes[i : i + 1])
        result = match_detections(alone, together[i], min_iou=0.98)
        assert (result.score_gaps <= 1e-4).sum() >= 0.99 * len(alone.scores)


def test_nothing_outside_the_valid_size_counts(small):
    images = torch.from_numpy(fixture_weights.image("padding", 1, 64, 96))
    image_sizes = torch.tensor([[50, 70]])
    clean = torch.zeros_like(images)
    clean[:, :, :50, :70] = images[:, :, :50, :70]
    (a,), (b,) = small(images, image_sizes), small(clean, image_sizes)
    assert torch.equal(a.boxes, b.boxes)
    assert torch.equal(a.scores, b.scores)
    assert a.boxes[:, 2].max() <= 70
    assert a.boxes[:, 3].max() <= 50


def test_uint8_graph_normalises_and_pads_to_fixed_outputs(small):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    image_sizes = torch.tensor([[32, 30]])
    out = MODEL.graph(small, InputKind.UINT8)(torch.from_numpy(pixels), image_sizes)
    (found,) = small(torch.from_numpy(normalise(pixels)), image_sizes)
    n = len(found.scores)
    assert 0 < n < 100
    assert out.num_detections.tolist() == [[n]]
    assert [tuple(part.shape) for part in out[:4]] == [
        (1, 100, 4),
        (1, 100),
        (1, 100),
        (1, 100, 28, 28),
    ]
    torch.testing.assert_close(out.boxes[0, :n], found.boxes, rtol=0, atol=1e-2)
    assert (out.labels[0, n:] == -1).all()
    assert not any(part[0, n:].any() for part in (out.boxes, out.scores, out.masks))


@pytest.mark.parametrize("wanted", [0, 1])
def test_few_detections(small, wanted):
    """From proposals that the box head finds empty, but for `wanted` of them."""
    head = small.roi_head
    proposals = torch.tensor([[[0.0, 0, 20, 20], [5, 5, 64, 64], [3, 3, 3, 3]]])
    logits = torch.zeros(3, 81)
    logits[:, 80] = 30
    logits[:wanted, 7] = 31
    sizes = torch.tensor([[64, 64]])
    boxes, scores, labels = head.select(proposals, logits, torch.zeros(3, 320), sizes)
    assert (scores > 0).sum() == wanted
    assert labels[0, :wanted].tolist() == [7] * wanted
    assert boxes[0, :wanted].tolist() == proposals[0, :wanted].tolist()
    pyramid = [torch.zeros(1, 256, 64 // s, 64 // s) for s in STRIDES[:4]]
    assert pyramid_roi_align(pyramid, STRIDES[:4], boxes, 14).shape == (100, 256, 14, 14)


# NMS against loops as the published kernels have them.


def random_boxes(rng, count, levels=0):
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(0, 40, (count, 2))), 1)
    boxes[::17, 2] = boxes[::17, 0]  # without area
    scores = rng.uniform(0.06, 1, count)
    return boxes.astype(np.float32), scores.astype(np.float32)


def overlap(a, b):
    return float(iou(torch.from_numpy(a).unbind(-1), torch.from_numpy(b).unbind(-1)))


def published_nms(boxes, threshold):
    """Rows of boxes, sorted by score, that greedy NMS keeps."""
    kept = []
    for i in range(len(boxes)):
        if not any(overlap(boxes[j], boxes[i]) > threshold for j in kept):
            kept.append(i)
    return kept


def published_soft_nms(boxes, scores, threshold):
    order, scores = list(range(len(boxes))), scores.copy()
    taken = []
    while order:
        best = max(order, key=lambda i: scores[i])
        taken.append((best, scores[best]))
        order.remove(best)
        for i in order:
            value = np.float32(overlap(boxes[best], boxes[i]))
            if value >= threshold:
                scores[i] *= np.float32(1) - value
        order = [i for i in order if scores[i] >= 0.001]
    return taken


def test_greedy_nms_equals_the_plain_loop():
    rng = np.random.default_rng(1)
    groups = [random_boxes(rng, 60)[0] for _ in range(4)]
    boxes = torch.from_numpy(np.stack(groups).reshape(2, 2, 60, 4))
    real = torch.ones(2, 2, 60, dtype=torch.bool)
    real[1, 1, 40:] = False
    keep = box_ops.greedy_keep(boxes, real, 0.5).reshape(4, 60)
    for i, group in enumerate(groups):
        count = 40 if i == 3 else 60
        assert keep[i].nonzero().flatten().tolist() == published_nms(group[:count], 0.5)


@pytest.mark.parametrize("kind", list(Nms), ids=str)
def test_selecting_the_best_equals_complete_nms_per_class(kind):
    rng = np.random.default_rng(2)
    classes = [random_boxes(rng, 50) for _ in range(3)]
    expected = []
    for label, (boxes, scores) in enumerate(classes):
        if kind is Nms.SOFT:
            taken = published_soft_nms(boxes, scores, 0.5)
        else:
            order = np.argsort(-scores, kind="stable")
            taken = [(order[i], scores[order[i]]) for i in published_nms(boxes[order], 0.5)]
        expected += [(label, int(i), float(s)) for i, s in taken]
    expected.sort(key=lambda entry: -entry[2])
    boxes = torch.from_numpy(np.stack([b for b, _ in classes]))[None]
    scores = torch.from_numpy(np.stack([s for _, s in classes]))[None]
    found = box_ops.select_best(boxes, scores, kind, 0.5, 40)
    rows = list(zip(*(part[0].tolist() for part in found), strict=True))
    assert len(expected) > 40
    assert [row[:2] for row in rows] == [row[:2] for row in expected[:40]]
    np.testing.assert_allclose([r[2] for r in rows], [r[2] for r in expected[:40]], atol=1e-7)


def plain_roi_align(feature, box, bins, stride):
    channels, height, width = feature.shape
    x1, y1, x2, y2 = box / stride - 0.5
    size_y, size_x = (y2 - y1) / bins, (x2 - x1) / bins
    count_y, count_x = math.ceil(size_y), math.ceil(size_x)
    out = np.zeros((channels, bins, bins))
    for i, j, k, m in np.ndindex(bins, bins, count_y, count_x):
        y = y1 + i * size_y + (k + 0.5) * size_y / count_y
        x = x1 + j * size_x + (m + 0.5) * size_x / count_x
        if not (-1 <= y <= height and -1 <= x <= width):
            continue
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        dy, dx = y - top, x - left
        upper = feature[:, top, left] * (1 - dx) + feature[:, top, right] * dx
        lower = feature[:, bottom, left] * (1 - dx) + feature[:, bottom, right] * dx
        out[:, i, j] += upper * (1 - dy) + lower * dy
    return out / max(count_y * count_x, 1)


def test_roi_align_equals_the_plain_loop():
    rng = np.random.default_rng(3)
    features = rng.standard_normal((2, 3, 9, 12)).astype(np.float32)
    corner = rng.uniform(-3, 40, (20, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(0, 40, (20, 2))), 1).astype(np.float32)
    boxes[0] = 5, 5, 5, 5
    boxes[1] = 0, 0, 48, 36
    boxes[2] = 200, 200, 260, 260
    image = np.arange(20) % 2
    out = roi_align(
        torch.from_numpy(features), torch.from_numpy(boxes), torch.from_numpy(image), 7, 4
    )
    for i, box in enumerate(boxes):
        expected = plain_roi_align(features[image[i]], box.astype(np.float64), 7, 4)
        np.testing.assert_allclose(out[i], expected, atol=2e-5)
    empty = roi_align(
        torch.from_numpy(features), torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), 7, 4
    )
    assert not empty.any()
