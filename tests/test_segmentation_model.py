"""UPerNet against the published implementation, and its exported graph against PyTorch.

`golden_seg_*_some_classes.npz` hold every tenth class of the reference logits, and the whole class
map.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dfvt_deploy.exporters.recipe import ExportableGraph, onnx_from_graph, simplify
from dfvt_deploy.models.backbone import VARIANTS
from dfvt_deploy.models.segmentation import (
    MODEL,
    POOL_SIDES,
    FusionConv,
    UPerNet,
    class_map,
    enlarging_matrix,
    pyramid_pool,
)
from dfvt_deploy.tasks.images import normalise
from dfvt_deploy.types import InputKind, Variant

from .reference import fixture_weights

REFERENCE = Path(__file__).parent / "reference"


def shapes(variant: str) -> dict[str, list[int]]:
    return json.loads((REFERENCE / f"shapes_seg_{variant}.json").read_text())


def inference_shapes(variant: str) -> dict[str, list[int]]:
    return {
        key: shape
        for key, shape in shapes(variant).items()
        if not key.startswith("auxiliary_head.") and not key.endswith(fixture_weights.DERIVED)
    }


def fixture_model(variant: str) -> UPerNet:
    model = UPerNet(VARIANTS[Variant(variant)], 150).eval()
    weights = fixture_weights.fill_state_dict(inference_shapes(variant))
    model.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in weights.items()})
    return model


@pytest.fixture(scope="module")
def model_t() -> UPerNet:
    return fixture_model("t")


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def published_class_map(logits: torch.Tensor) -> torch.Tensor:
    return F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False).argmax(1)


@pytest.mark.parametrize("variant", list(Variant))
def test_published_keys_logits_and_class_map(variant):
    golden = np.load(REFERENCE / f"golden_seg_{variant}_some_classes.npz")
    model = fixture_model(variant)
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == inference_shapes(variant)
    images = fixture_weights.image(str(golden["input_name"]), *golden["input_shape"])
    with torch.no_grad():
        logits = model(torch.from_numpy(images))
    difference = np.abs(logits.numpy()[:, golden["classes"]] - golden["logits"])
    assert difference.max() < 1e-4
    assert np.mean(published_class_map(logits).numpy() == golden["argmax"]) > 0.999


@pytest.mark.parametrize(
    ("variant", "gmacs", "parameters", "with_auxiliary"),
    [("t", 850.5, 32.449, 32.9), ("s", 874.3, 42.342, 43.3), ("b", 923.8, 70.312, 71.5)],
)
def test_multiply_accumulates_and_parameters(variant, gmacs, parameters, with_auxiliary):
    with torch.device("meta"):
        model = UPerNet(VARIANTS[Variant(variant)], 150).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, 512, 2048))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.01)
    count = sum(p.numel() for p in model.parameters())
    auxiliary = sum(
        int(np.prod(shape))
        for key, shape in shapes(variant).items()
        if key.startswith("auxiliary_head.") and key.endswith(("weight", "bias"))
    )
    assert count / 1e6 == pytest.approx(parameters, abs=1e-3)
    assert (count + auxiliary) / 1e6 == pytest.approx(with_auxiliary, abs=0.05)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (4, 64), (6, 6), (7, 13), (16, 3), (17, 31)])
def test_pyramid_pool_is_adaptive_average_pooling(size):
    x = random(2, 3, *size)
    for side, pooled in zip(POOL_SIDES, pyramid_pool(x), strict=True):
        assert torch.allclose(pooled, F.adaptive_avg_pool2d(x, side), atol=1e-6)


@pytest.mark.parametrize(("small", "large"), [(1, 1), (1, 5), (3, 8), (6, 17), (16, 128), (6, 2)])
def test_enlarging_matrix_is_bilinear_with_shifts(small, large):
    x = random(1, 2, small)
    expected = F.pad(F.interpolate(x, large, mode="linear", align_corners=False), (1, 1))
    matrix = enlarging_matrix(small, large, x)
    for tap in range(3):
        assert torch.allclose(x @ matrix[:, tap].T, expected[..., tap : tap + large], atol=1e-6)


def test_taps_first_changes_nothing_but_rounding():
    torch.manual_seed(0)
    module = FusionConv(5, (4, 3, 2), 6).eval()
    module.bn.running_mean.normal_()
    module.bn.running_var.uniform_(0.5, 2)
    fine = random(2, 5, 16, 24)
    coarse = [random(2, 4, 8, 12), random(2, 3, 4, 6), random(2, 2, 3, 3)]
    with torch.no_grad():
        published = module(fine, coarse)
        assert published.std() > 0.1
        assert torch.allclose(module(fine, coarse, taps_first=True), published, atol=1e-5)


def test_outside_of_image_sizes_counts_as_zero(model_t):
    images = random(2, 3, 64, 96)
    sizes = torch.tensor([[50, 96], [64, 1]])
    padded = torch.zeros_like(images)
    for i, (height, width) in enumerate(sizes.tolist()):
        padded[i, :, :height, :width] = images[i, :, :height, :width]
    images[0, :, 50:] = torch.nan
    with torch.no_grad():
        assert torch.equal(model_t(images, sizes), model_t(padded))
        assert not torch.allclose(model_t(padded), model_t(random(2, 3, 64, 96)))


def test_other_sizes_are_refused(model_t):
    with pytest.raises(ValueError, match="width 100 is not a multiple of 32; pad to 128"):
        model_t(torch.zeros(1, 3, 64, 100))


def test_class_map_is_argmax_of_enlarged_logits():
    logits = random(2, 21, 16, 24)
    classes = class_map(logits)
    assert classes.dtype == torch.uint8
    assert torch.equal(classes.long(), published_class_map(logits))


def test_class_map_of_many_classes():
    logits = random(1, 300, 8, 8)
    classes = class_map(logits)
    assert classes.dtype == torch.int32
    assert classes.max() > 255
    assert torch.equal(classes.long(), published_class_map(logits))


def session(model, kind, logits=False, static: tuple[int, int] | None = None):
    """The graph exported with example images of one size, in onnxruntime."""
    height, width = static or (128, 192)
    float32 = kind is InputKind.FLOAT32
    images = pixels(2, height, width)
    names = {0: "batch"} if static else {0: "batch", 1: "height", 2: "width"}
    chw = {0: "batch", 2: "height", 3: "width"}
    outputs = {"class_map": names}
    if logits:
        outputs["logits"] = {0: "batch", 2: "logit_height", 3: "logit_width"}
    graph = ExportableGraph(
        module=MODEL.graph(model, kind, logits),
        inputs={
            "images": torch.from_numpy(normalise(images) if float32 else images),
            "image_sizes": torch.tensor([[height, width], [height - 9, width - 5]]),
        },
        dynamic={"images": chw if float32 else names, "image_sizes": {0: "batch"}},
        dynamic_outputs=outputs,
    )
    model = simplify(onnx_from_graph(graph))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return model, onnxruntime.InferenceSession(model.SerializeToString(), options)


def pixels(batch: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng([batch, height, width])
    coarse = rng.integers(0, 256, (batch, height // 16, width // 16, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


def expected(model: UPerNet, images: np.ndarray, sizes: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.from_numpy(normalise(images)), torch.from_numpy(sizes))


def test_dynamic_export_gives_the_class_map_at_every_canvas(model_t):
    onnx_model, runtime = session(model_t, InputKind.UINT8)
    nodes = onnx_model.graph.node
    assert [n.op_type for n in nodes if "images" in n.input] == ["Cast"]
    assert [n.op_type for n in nodes][-2:] == ["Cast", "Cast"]
    for batch, height, width in [(1, 32, 32), (2, 96, 64), (1, 64, 288), (1, 256, 32)]:
        images = pixels(batch, height, width)
        sizes = np.array([[height - 3, width], [height, width - 30]][:batch], np.int64)
        (classes,) = runtime.run(None, {"images": images, "image_sizes": sizes})
        assert classes.dtype == np.uint8
        wanted = published_class_map(expected(model_t, images, sizes)).numpy()
        assert classes.shape == wanted.shape
        assert np.mean(classes == wanted) > 0.999


def test_float32_export_with_logits(model_t):
    _, runtime = session(model_t, InputKind.FLOAT32, logits=True)
    images, sizes = pixels(1, 96, 160), np.array([[90, 150]])
    feed = {"images": normalise(images), "image_sizes": sizes}
    classes, logits = runtime.run(["class_map", "logits"], feed)
    wanted = expected(model_t, images, sizes)
    assert np.abs(logits - wanted.numpy()).max() < 1e-4
    assert np.mean(classes == published_class_map(wanted).numpy()) > 0.999


def test_static_export(model_t):
    onnx_model, runtime = session(model_t, InputKind.UINT8, static=(64, 96))
    assert not any(node.op_type == "Shape" for node in onnx_model.graph.node)
    images, sizes = pixels(3, 64, 96), np.array([[64, 96], [60, 90], [1, 1]])
    (classes,) = runtime.run(None, {"images": images, "image_sizes": sizes})
    wanted = published_class_map(expected(model_t, images, sizes)).numpy()
    assert np.mean(classes == wanted) > 0.999
