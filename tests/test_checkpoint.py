"""Checkpoints: every layout loads, nothing runs, and what does not fit is named."""

import os
import pickle
import re
import struct
import sys
import zipfile

import pytest
import safetensors.torch
import torch

from dfvt_deploy.errors import BadInput, CheckpointError
from dfvt_deploy.models import build_model, inspect_checkpoint, load_checkpoint
from dfvt_deploy.types import Task, Variant

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
        torch.equal(loaded[key.split("module.")[-1]], value)
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


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_state_dict_layouts_load_with_prefixes(tmp_path, weights, prefix):
    prefixed = {prefix + key: value for key, value in weights.items()}
    torch.save(prefixed, tmp_path / "bare.pth")
    assert _loads_into_t(tmp_path / "bare.pth", weights).layout == "bare"
    torch.save({"state_dict": prefixed, "meta": {"epoch": 3}}, tmp_path / "dict.pth")
    assert _loads_into_t(tmp_path / "dict.pth", weights).layout == "state_dict"


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
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    for name, reason in {
        "text.pth": "cannot be read",
        "empty.pth": "cannot be read",
        "cut.pth": "cannot be read",
        "bad.safetensors": "safetensors",
        "nothing.pth": "keys epoch",
        "module.pth": "no state dict",
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


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _sets_state_on(thing: bytes) -> bytes:
    """A pickle that sets the attribute `changed` of an admitted function or class."""
    return b"\x80\x02" + thing + b"(N}" + _text("changed") + b"\x88st" + b"b."


def _as_zip(path, data: bytes):
    torch.save({"a": 1}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, data if name.endswith("data.pkl") else content)
    return path


def _as_old_format(path, data: bytes):
    header = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    start = b"".join(pickle.dumps(value, 2) for value in header)
    path.write_bytes(start + data + pickle.dumps([], 2))
    return path


@pytest.mark.parametrize("write", [_as_zip, _as_old_format])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch", "FloatStorage"),
        ("torch.storage", "UntypedStorage"),
        ("torch", "Size"),
        ("collections", "OrderedDict"),
        ("os", "environ"),
    ],
)
def test_a_pickle_sets_no_state_on_anything(tmp_path, write, module, name):
    from dfvt_deploy.models import restricted_pickle

    path = write(tmp_path / "state.pth", _sets_state_on(_global(module, name)))
    with pytest.raises(CheckpointError):
        inspect_checkpoint(path)
    things = [vars(sys.modules[module])[name], restricted_pickle.Inert]
    things += restricted_pickle._ADMITTED.values()
    assert not any(hasattr(thing, "changed") for thing in things)


@pytest.mark.parametrize("write", [_as_zip, _as_old_format])
def test_a_pickled_modules_source_is_not_written_to_a_file(tmp_path, write):
    tensor = _global("torch._utils", "_rebuild_tensor")
    change = b"(}" + _text("dump_patches") + b"\x88s}" + _text("__name__")
    change += _text(str(tmp_path / "evil")) + b"stb"
    reference = b"(" + _text("module") + tensor + _text("a.py") + _text("CONTENT\n") + b"tQ"
    path = write(tmp_path / "module.pth", b"\x80\x02(" + tensor + change + reference + b"t.")
    with pytest.raises(CheckpointError, match="pickled module"):
        inspect_checkpoint(path)
    assert [p.name for p in tmp_path.iterdir()] == ["module.pth"]


def test_odd_state_dicts_are_refused_with_the_reason(tmp_path, weights):
    cases = {
        "key 3": {3: torch.zeros(1), **weights},
        "num_classes 0": {**weights, "head.weight": torch.tensor(1.0)},
        "no known DFvT variant": {**weights, "patch_embed.proj2.weight": torch.tensor(1.0)},
        "both .* and": {**weights, "backbone.norm.bias": weights["norm.bias"]},
        "norm.bias +is int32": {**weights, "norm.bias": weights["norm.bias"].int()},
        "num_classes 2000000000": {
            **weights,
            "head.weight": torch.zeros(1, 384).expand(2_000_000_000, 384),
        },
    }
    for reason, content in cases.items():
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(BadInput, match=reason):
            info = inspect_checkpoint(tmp_path / "odd.pth")
            load_checkpoint(
                build_model("classification", "t", info.num_classes), tmp_path / "odd.pth"
            )
