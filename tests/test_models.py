"""The networks against the published implementation's outputs."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dfvt_deploy.cli import app
from dfvt_deploy.errors import BadInput
from dfvt_deploy.models.backbone import VARIANTS, DenseBackbone
from dfvt_deploy.models.build import ModelRow, build_model, fill_untrained
from dfvt_deploy.types import Variant

from .fixtures import LOGITS_TOLERANCE, REFERENCE, fixture_state_dict, json_document, shapes
from .reference import fixture_weights


@pytest.mark.parametrize("variant", list(Variant))
def test_classifier_gives_the_published_logits(variant):
    golden = np.load(REFERENCE / f"golden_cls_{variant}.npz")
    images = fixture_weights.image(str(golden["input_name"]), *golden["input_shape"])
    model = build_model("classification", variant)
    weights = fixture_state_dict(variant)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not missing
    assert all(key.endswith(fixture_weights.DERIVED) for key in unexpected)
    with torch.no_grad():
        logits = model(torch.from_numpy(images)).numpy()
    assert np.abs(logits - golden["logits"]).max() < LOGITS_TOLERANCE


@pytest.mark.parametrize("variant", list(Variant))
def test_dense_backbone_gives_the_published_maps(variant):
    golden = np.load(REFERENCE / f"golden_backbone_{variant}.npz")
    images = fixture_weights.image(str(golden["input_name"]), *golden["input_shape"])
    keys = {
        key.removeprefix("backbone."): shape
        for key, shape in shapes(f"det_{variant}").items()
        if key.startswith("backbone.")
    }
    model = DenseBackbone(VARIANTS[variant]).eval()
    model.load_state_dict(
        {
            key: torch.from_numpy(np.asarray(value))
            for key, value in fixture_weights.fill_state_dict(keys).items()
        }
    )
    with torch.no_grad():
        maps = model(torch.from_numpy(images))
    for i, found in enumerate(maps):
        assert np.abs(found.numpy() - golden[f"out{i}"]).max() < 1e-4


def test_batch_members_do_not_influence_each_other():
    model = build_model("classification", "b")
    fill_untrained(model)
    images = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


def test_untrained_weights_are_the_same_at_every_call():
    first, second = (build_model("classification", "t", 10) for _ in range(2))
    fill_untrained(first)
    fill_untrained(second)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_build_model_names_the_choices():
    with pytest.raises(BadInput, match="variants: t, s, b"):
        build_model("classification", "xl")
    with pytest.raises(BadInput, match="num_classes 0 is outside"):
        build_model("classification", "t", 0)


def test_table_counts_what_the_paper_counts():
    printed = json_document("models", CliRunner().invoke(app, ["models", "--json"]).stdout)
    rows = {row["name"]: ModelRow(**row) for row in printed}
    assert len(rows) == 9
    counted = {v: rows[f"dfvt_{v}_classification"] for v in Variant}
    assert [round(row.gmacs, 3) for row in counted.values()] == [0.306, 0.941, 2.707]
    assert [round(row.parameters_m, 3) for row in counted.values()] == [3.968, 11.225, 37.331]
    assert counted["s"].accuracy == {"top-1 %": 78.29}
