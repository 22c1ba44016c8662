"""What the detection example learns from: scenes, targets and losses, and training that resumes."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from dfvt_deploy.errors import BadInput
from dfvt_deploy.models import box_ops
from dfvt_deploy.models.build import build_model
from dfvt_deploy.tasks import rle
from examples import training
from examples.detection_data import (
    LEAST_VISIBLE,
    box_of,
    compose,
    example,
    mirrored,
    write_coco,
)
from examples.detection_losses import (
    BACKGROUND,
    IGNORED,
    Assigner,
    Sampler,
    Sampling,
    Truth,
    all_anchors,
    assign,
    encode,
    losses,
    mask_target,
    sample,
)
from examples.train_detection import CANVAS, initialise, network_inputs, train_detection
from examples.training import Schedule, train

RPN = Assigner(0.7, 0.3, 0.3)


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [compose(rng) for _ in range(30)]


def test_scenes_are_what_the_issue_asks_for(scenes):
    """Objects overlap and are cut by the border, no pixel is of two, and each stays visible."""
    cut = 0
    for scene in scenes:
        height, width = scene.image.shape[:2]
        assert all(96 <= side <= 160 for side in (height, width))
        assert scene.masks.shape == (len(scene.labels), height, width)
        assert scene.masks.sum(axis=0).max() == 1
        for mask in scene.masks:
            assert mask.sum() > LEAST_VISIBLE * 100
            left, top, right, bottom = box_of(mask)
            cut += left == 0 or top == 0 or right == width or bottom == height
    touching = sum(bool((_grown(a) & b).any()) for scene in scenes for a, b in _pairs(scene.masks))
    assert cut > 10
    assert touching > 10


def _pairs(masks):
    return [(masks[i], masks[j]) for i in range(len(masks)) for j in range(i)]


def _grown(mask):
    padded = np.pad(mask, 1)
    return padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]


def test_an_examples_boxes_and_masks_fit_its_pixels(scenes):
    for scene in scenes[:5]:
        one = example(scene, CANVAS)
        for box, mask in zip(one.boxes, one.masks, strict=True):
            assert np.abs(box_of(mask) - box).max() <= 1
        twice = mirrored(mirrored(one))
        np.testing.assert_array_equal(twice.pixels, one.pixels)
        np.testing.assert_array_equal(twice.masks, one.masks)
        np.testing.assert_allclose(twice.boxes, one.boxes, atol=1e-4)
        for box, mask in zip(mirrored(one).boxes, mirrored(one).masks, strict=True):
            assert np.abs(box_of(mask) - box).max() <= 1


def test_the_annotations_are_cocos(scenes, tmp_path):
    write_coco(tmp_path / "heldout", scenes[:3])
    content = json.loads(
        (tmp_path / "heldout" / "annotations" / "instances_heldout.json").read_text()
    )
    masks = [mask for scene in scenes[:3] for mask in scene.masks]
    assert [thing["id"] for thing in content["annotations"]] == list(range(1, len(masks) + 1))
    for thing, mask in zip(content["annotations"], masks, strict=True):
        np.testing.assert_array_equal(rle.decode(thing["segmentation"]), mask)
        assert thing["area"] == mask.sum()


def test_anchors_are_those_of_the_exported_graph():
    sizes = [(8, 16), (4, 8), (2, 4), (1, 2), (1, 1)]
    head = build_model("detection", "t", 5).rpn_head
    counts = [3 * height * width for height, width in sizes]
    numbers = torch.zeros(1, 5, max(counts), dtype=torch.int64)
    for level, count in enumerate(counts):
        numbers[0, level, :count] = torch.arange(count)
    padded = head._anchors(numbers, 16)[0]
    expected = torch.cat([padded[level, :count] for level, count in enumerate(counts)])
    torch.testing.assert_close(all_anchors(sizes), expected, rtol=0, atol=0)


def test_encoding_is_what_decoding_undoes():
    boxes = torch.tensor([[10.0, 10, 30, 50], [0, 0, 8, 8]])
    objects = torch.tensor([[12.0, 5, 40, 40], [1, 2, 5, 30]])
    torch.testing.assert_close(box_ops.decode(boxes, encode(boxes, objects)), objects)
    assert encode(boxes, boxes).abs().max() == 0


def test_boxes_are_assigned_by_their_largest_overlap():
    objects = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]])
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 8],  # IoU 0.8 with the first
            [0, 0, 10, 5],  # 0.5: neither an example of it nor background
            [0, 0, 10, 2],  # 0.2
            [20, 0, 30, 4],  # 0.4, the most of any with the second: it is taken
            [50, 50, 60, 52],  # 0.2, the most of any with the third, but below 0.3
        ]
    )
    assert assign(boxes, objects, RPN).tolist() == [0, IGNORED, BACKGROUND, 1, BACKGROUND]


def test_samples_hold_at_most_their_share_of_objects():
    torch.manual_seed(0)
    assigned = torch.tensor([BACKGROUND] * 50 + [IGNORED] * 5 + [3] * 20)
    positive, negative = sample(assigned, Sampler(16, 0.25))
    assert (len(positive), len(negative)) == (4, 12)
    assert set(assigned[positive].tolist()) == {3}
    assert set(assigned[negative].tolist()) == {BACKGROUND}
    positive, negative = sample(assigned[40:60], Sampler(64, 0.5))
    assert (len(positive), len(negative)) == (5, 10), "fewer where there are fewer"


def test_a_mask_target_is_the_objects_part_of_the_box():
    masks = torch.zeros(2, 56, 56)
    masks[1, :28, :] = 1
    boxes = torch.tensor([[0.0, 0, 56, 56], [0, 0, 56, 28], [0, 0, 56, 56]])
    found = mask_target(masks, boxes, torch.tensor([1, 1, 0]))
    assert found[0, :14].min() == 1 and found[0, 14:].max() == 0
    assert found[1].min() == 1
    assert found[2].max() == 0


def test_losses_fall_and_reach_every_weight(scenes):
    """A few steps on two images; what no loss reached would never be learnt."""
    torch.manual_seed(0)
    model = build_model("detection", "t", 5).train()
    initialise(model)
    examples = [example(scene, (64, 64)) for scene in scenes[:2]]
    images, sizes = network_inputs(examples)
    truths = [Truth.of(one) for one in examples]
    how = Sampling(roi_sampler=Sampler(8, 0.25), before_nms=50, masked_rois=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    history = []
    for _ in range(6):
        parts = losses(model, images, sizes, truths, how)
        assert set(parts) == {"rpn_class", "rpn_box", "class", "box", "mask"}
        total = sum(parts.values())
        optimizer.zero_grad()
        total.backward()
        if not history:
            unreached = [k for k, p in model.named_parameters() if p.grad is None]
            assert unreached == []
        nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
        history.append({name: part.item() for name, part in parts.items()})
    assert history[-1]["rpn_class"] < history[0]["rpn_class"]
    assert history[-1]["class"] < 0.5 * history[0]["class"]


def _fitted(path, stop_after=None):
    """Weights of a linear model, trained in one go or stopped and resumed."""
    torch.manual_seed(3)
    model = nn.Linear(2, 1)
    inputs = torch.randn(12, 2)
    steps = 0

    def loss_of(chosen):
        nonlocal steps
        steps += 1
        if stop_after is not None and steps > stop_after:
            raise KeyboardInterrupt
        return (model(inputs[chosen]) - torch.rand(len(chosen), 1)).square().mean()

    train(model, loss_of, 12, Schedule(steps=20, batch=4, learning_rate=0.1, clip=1), path)
    return model.weight.detach(), steps


def test_resumed_training_gives_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVED", 4)
    whole, _ = _fitted(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        _fitted(tmp_path / "stopped.pt", stop_after=10)
    resumed, steps = _fitted(tmp_path / "stopped.pt")
    assert steps == 20 - 8
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def test_a_state_of_other_settings_is_refused(tmp_path):
    (tmp_path / "training.pt").write_bytes(b"")
    (tmp_path / "training.txt").write_text("another seed")
    with pytest.raises(BadInput, match="a training with other settings"):
        train_detection(tmp_path)
