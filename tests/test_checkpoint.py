"""Checkpoints: every layout loads, nothing runs, and what does not fit is named."""

import os
import re
import sys

import pytest
import safetensors.torch
import torch

from dfvt_deploy.errors import BadInput, CheckpointError
from dfvt_deploy.exporters.export import model_with_weights
from dfvt_deploy.exporters.options import ExportOptions
from dfvt_deploy.models import build_model, inspect_checkpoint, load_checkpoint
from dfvt_deploy.models.build import model_from_manifest
from dfvt_deploy.models.checkpoint import read_state_dict
from dfvt_deploy.types import Task, Variant, Weights

from .fixtures import fixture_state_dict, save_published


@pytest.fixture(scope="module")
def weights():
    return fixture_state_dict("t")


def _loads_into_t(path, weights, num_classes=1000):
    model = build_model("classification", "t", num_classes)
    load_checkpoint(model, path)
    loaded = model.state_dict()
    derived = ("num_batches_tracked", "relative_position_index", "attn_mask")
    assert all(
        torch.equal(loaded[key], value)
        for key, value in weights.items()
        if not key.endswith(derived)
    )
    return inspect_checkpoint(path)


def test_published_layout_loads_without_yacs(checkpoint_t, weights):
    assert "yacs.config" not in sys.modules
    info = _loads_into_t(checkpoint_t, weights)
    assert (info.task, info.variant, info.num_classes, info.layout) == (
        Task.CLASSIFICATION,
        Variant.T,
        1000,
        "published",
    )


def test_old_torch_format_loads(tmp_path, weights):
    path = save_published(tmp_path / "old.pth", weights, _use_new_zipfile_serialization=False)
    assert _loads_into_t(path, weights).layout == "published"


def test_state_dict_layouts_load(tmp_path, weights):
    torch.save(weights, tmp_path / "bare.pth")
    assert _loads_into_t(tmp_path / "bare.pth", weights).layout == "bare"
    prefixed = {f"module.backbone.{key}": value for key, value in weights.items()}
    torch.save({"state_dict": prefixed, "meta": {"epoch": 3}}, tmp_path / "dict.pth")
    assert _loads_into_t(tmp_path / "dict.pth", weights).layout == "state_dict"


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_dropped(tmp_path, prefix):
    path = tmp_path / "prefixed.pth"
    torch.save({f"{prefix}backbone.{k}": torch.ones(1) for k in ("norm.bias", "b")}, path)
    assert set(read_state_dict(path, Weights.MODEL).weights) == {"norm.bias", "b"}
    dense = ("backbone.b", "decode_head.c", "auxiliary_head.d", "backbone.e.num_batches_tracked")
    torch.save({"state_dict": {prefix + key: torch.ones(1) for key in dense}}, path)
    assert set(read_state_dict(path, Weights.MODEL).weights) == {"backbone.b", "decode_head.c"}


def test_safetensors_loads(tmp_path, weights):
    safetensors.torch.save_file(weights, tmp_path / "t.safetensors")
    assert _loads_into_t(tmp_path / "t.safetensors", weights).layout == "safetensors"


def test_half_precision_checkpoint_loads_as_float32(tmp_path, weights):
    torch.save(
        {k: v.half() if v.is_floating_point() else v for k, v in weights.items()},
        tmp_path / "half.pth",
    )
    model = build_model("classification", "t")
    load_checkpoint(model, tmp_path / "half.pth")
    assert model.state_dict()["head.weight"].dtype == torch.float32


def test_nothing_in_a_pickle_is_executed(tmp_path, weights):
    marker = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    torch.save({"model": weights, "config": Attack()}, tmp_path / "attack.pth")
    _loads_into_t(tmp_path / "attack.pth", weights)
    assert not marker.exists()
    torch.save({"model": weights, "config": Attack()}, tmp_path / "check.pth")
    torch.load(tmp_path / "check.pth", weights_only=False)
    assert marker.exists(), "the attack would not have worked anyway"


def test_other_class_count_comes_from_the_head(tmp_path):
    weights = fixture_state_dict("t", num_classes=10)
    path = save_published(tmp_path / "ten.pth", weights)
    assert _loads_into_t(path, weights, num_classes=10).num_classes == 10
    with pytest.raises(CheckpointError, match=r"with 10 classes; the model is .* 1000 classes"):
        load_checkpoint(build_model("classification", "t"), path)


def test_other_variant_is_named(checkpoint_t):
    with pytest.raises(CheckpointError, match=r"is DFvT-T classification .* model is DFvT-S"):
        load_checkpoint(build_model("classification", "s"), checkpoint_t)


@pytest.mark.parametrize(
    ("key", "task"),
    [
        ("decode_head.conv_seg.weight", "segmentation"),
        ("roi_head.bbox_head.fc_cls.weight", "detection"),
    ],
)
def test_other_task_is_named(tmp_path, weights, key, task):
    dense = {f"backbone.{k}": v for k, v in weights.items() if not k.startswith("head.")}
    torch.save({"state_dict": dense | {key: torch.zeros(20, 8)}}, tmp_path / "dense.pth")
    assert inspect_checkpoint(tmp_path / "dense.pth").task == task
    with pytest.raises(CheckpointError, match=f"is DFvT-T {task}"):
        load_checkpoint(build_model("classification", "t"), tmp_path / "dense.pth")


def test_mismatches_are_a_table_and_leave_the_model_unchanged(tmp_path, weights):
    wrong = dict(weights)
    del wrong["norm.weight"]
    wrong["extra.weight"] = torch.zeros(3)
    wrong["norm.bias"] = torch.zeros(7)
    wrong["head.bias"] = torch.full((1000,), float("nan"))
    torch.save(wrong, tmp_path / "wrong.pth")
    model = build_model("classification", "t")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(model, tmp_path / "wrong.pth")
    message = str(raised.value)
    assert re.search(r"norm.weight +missing, expected \[384\]", message)
    assert re.search(r"extra.weight +unexpected, \[3\]", message)
    assert re.search(r"norm.bias +is \[7\], expected \[384\]", message)
    assert re.search(r"head.bias +1000 of 1000 values are not finite", message)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_files_that_are_no_checkpoint_say_so(tmp_path, checkpoint_t):
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "cut.pth").write_bytes(checkpoint_t.read_bytes()[:100_000])
    (tmp_path / "bad.safetensors").write_bytes(b"\xff\xff\0\0\0\0\0\0{nonsense")
    torch.save({"epoch": 3}, tmp_path / "nothing.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "model.pth")
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    for name, reason in {
        "text.pth": "no file of torch.save or safetensors",
        "empty.pth": "it is empty",
        "cut.pth": "cannot be read",
        "bad.safetensors": "safetensors",
        "nothing.pth": r"a dict of epoch \(of the type int\), no state dict",
        "module.pth": r"an object of torch.nn.modules.linear.Linear, no state .*model.state_dict",
        "model.pth": r"a dict of model \(an object of torch.nn.modules.linear.Linear\)",
        "other.pth": "no DFvT checkpoint",
        "absent.pth": "does not exist",
    }.items():
        with pytest.raises(CheckpointError, match=reason):
            inspect_checkpoint(tmp_path / name)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "s.pt")
    with pytest.raises(CheckpointError, match="TorchScript program"):
        inspect_checkpoint(tmp_path / "s.pt")


def test_odd_state_dicts_are_refused_with_the_reason(tmp_path, weights):
    cases = {
        "is no text": {3: torch.zeros(1), **weights},
        "num_classes 0": {**weights, "head.weight": torch.tensor(1.0)},
        "no known DFvT variant": {**weights, "patch_embed.proj2.weight": torch.tensor(1.0)},
        "both .* and": {**weights, "backbone.norm.bias": weights["norm.bias"]},
        "norm.bias +is torch.IntStorage, expected a float": {
            **weights,
            "norm.bias": weights["norm.bias"].int(),
        },
        "expanded tensor": {
            **weights,
            "head.weight": torch.zeros(1, 384).expand(2_000_000_000, 384),
        },
        "norm.bias +1 of 384 values are not finite, or too large": {
            **weights,
            "norm.bias": torch.full((384,), 0.5).double().index_fill(0, torch.tensor([7]), 1e300),
        },
        "running_var +1 of 24 variances are negative": {
            **weights,
            "patch_embed.norm1.running_var": -torch.eye(24)[0],
        },
        r"sparse.* is an object of torch._utils._rebuild_sparse_tensor, not a tensor": {
            **weights,
            "sparse": torch.zeros(1).to_sparse(),
        },
    }
    for reason, content in cases.items():
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(BadInput, match=reason):
            info = inspect_checkpoint(tmp_path / "odd.pth")
            load_checkpoint(
                build_model("classification", "t", info.num_classes), tmp_path / "odd.pth"
            )


@pytest.mark.parametrize(
    ("model", "ema"),
    [("model", "model_ema"), ("state_dict", "ema_state_dict")],
)
def test_ema_weights_are_named_and_taken_when_asked_for(tmp_path, weights, model, ema):
    averaged = {key: value * 0.5 for key, value in weights.items()}
    with_steps = {"steps": torch.tensor(9)} | {f"module.{k}": v for k, v in averaged.items()}
    path = tmp_path / "both.pth"
    torch.save({model: weights, ema: with_steps if ema == "ema_state_dict" else averaged}, path)
    loaded = build_model("classification", "t")
    note = load_checkpoint(loaded, path).note
    assert f"taken from {model} (--weights ema takes {ema})" in note
    assert torch.equal(loaded.state_dict()["norm.bias"], weights["norm.bias"])
    note = load_checkpoint(loaded, path, "ema").note
    assert f"taken from {ema} (--weights model takes {model})" in note
    assert torch.equal(loaded.state_dict()["norm.bias"], averaged["norm.bias"])


def test_an_export_of_ema_weights_is_rebuilt_from_them(tmp_path, weights, artifact_t, capsys):
    averaged = {key: value * 0.5 for key, value in weights.items()}
    torch.save({"model": weights, "model_ema": averaged}, tmp_path / "both.pth")
    options = ExportOptions(variant="t", checkpoint=tmp_path / "both.pth", weights="ema")
    model, record = model_with_weights(options)
    assert "the weights are taken from model_ema" in capsys.readouterr().err
    manifest = artifact_t.manifest.model_copy(update={"checkpoint": record})
    rebuilt = model_from_manifest(manifest, tmp_path / "both.pth")
    for built in (model, rebuilt):
        assert torch.equal(built.state_dict()["norm.bias"], averaged["norm.bias"])


def test_weights_that_are_not_there_are_named(tmp_path, weights, checkpoint_t):
    torch.save({"model_ema": weights}, tmp_path / "ema.pth")
    with pytest.raises(CheckpointError, match=r"EMA weights only \(model_ema\); --weights ema"):
        inspect_checkpoint(tmp_path / "ema.pth")
    assert inspect_checkpoint(tmp_path / "ema.pth", "ema").note is None
    with pytest.raises(CheckpointError, match="no EMA weights, which would be model_ema"):
        inspect_checkpoint(checkpoint_t, "ema")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64, torch.uint16])
def test_dtypes_that_are_no_weights_are_named(tmp_path, weights, dtype):
    odd = {**weights, "norm.bias": weights["norm.bias"].to(dtype)}
    torch.save(odd, tmp_path / "odd.pth")
    torch.save(odd, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(odd, tmp_path / "odd.safetensors")
    for file in tmp_path.iterdir():
        with pytest.raises(CheckpointError, match=r"norm.bias +is \S+, expected a float of 16, 32"):
            load_checkpoint(build_model("classification", "t"), file)
