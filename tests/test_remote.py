"""`--to`: a folder, and an S3 server on the loopback address, seen by a reader at every write."""

import shutil
import uuid
from pathlib import Path

import pytest

from dfvt_deploy.errors import BadInput, StageFailed
from dfvt_deploy.linting.run import lint
from dfvt_deploy.promotion.live_versions import promote
from dfvt_deploy.serving.config import from_text
from dfvt_deploy.serving.layout import model_names
from dfvt_deploy.serving.remote import Target, target_of
from dfvt_deploy.serving.repository import populate

from .test_promotion import judged, made  # noqa: F401
from .test_repository import NAME


@pytest.fixture(scope="module")
def s3():
    """The storage options' environment for a real S3 server, and its bucket."""
    pytest.importorskip("s3fs")
    moto_server = pytest.importorskip("moto.server")
    import boto3

    server = moto_server.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(key, value)
        boto3.client("s3").create_bucket(Bucket="models")
        yield "s3://models"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def to(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "target")
    return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"


@pytest.fixture
def root(made, tmp_path):  # noqa: F811
    shutil.copytree(made, tmp_path / "w", symlinks=True)
    return tmp_path / "w"


def send(root, version, to):
    return promote(NAME, repository=root / "r", version=version, exports=root / "exports", to=to)


def download(to, folder):
    """The repository in a target, as a server that starts now would read it."""
    if "://" not in to:
        shutil.copytree(to, folder, ignore=shutil.ignore_patterns(".*"))
    else:
        target = target_of(to)
        target.store.get(f"{target.root}/", f"{folder}/", recursive=True)
    return folder


def exists(target: Target, path: str) -> bool:
    where = f"{target.root}/{path}"
    return target.store.exists(where) if target.store else Path(where).is_file()


def live_and_whole(target: Target) -> int:
    """The version that the ensemble uses; its steps must load it, and its files must be there."""
    text = target.content(f"{NAME}/config.pbtxt")
    if text is None:
        return 0
    ensemble = from_text(text.decode())
    (version,) = ensemble.version_policy.specific.versions
    assert {step.model_version for step in ensemble.ensemble_scheduling.step} == {version}
    for model in model_names(NAME)[:-1]:
        config = from_text(target.content(f"{model}/config.pbtxt").decode())
        assert version in config.version_policy.specific.versions
        for each in config.version_policy.specific.versions:
            file = config.default_model_filename or "model.onnx"
            assert exists(target, f"{model}/{each}/{file}"), (model, each)
    return version


def test_a_reader_finds_the_old_or_the_new_version_at_every_write(root, to, tmp_path, monkeypatch):
    seen = []
    put = Target.put

    written = 0

    def watched(self, source, path):
        nonlocal written
        put(self, source, path)
        written += 1
        if path.endswith("/config.pbtxt") or written % 20 == 0:  # each look reads many files
            seen.append(live_and_whole(self))

    monkeypatch.setattr(Target, "put", watched)
    for number, version in enumerate((1, 2, 1)):
        seen.clear()
        send(root, version, to)
        before = (0, 1, 2)[number]
        assert set(seen) == {before, version}
        assert seen[-2:] == [before, version]  # by the last write alone
        found = download(to, tmp_path / str(number))
        assert not [p for p in found.rglob("*") if p.is_symlink()]
        assert lint(found).errors == 0


def test_an_upload_that_breaks_off_goes_on_later(root, to, monkeypatch):
    send(root, 1, to)
    put = Target.put
    left = 0

    def broken(self, source, path):
        nonlocal left
        left -= 1
        if not left:
            raise ConnectionError("gone")
        put(self, source, path)

    for number in (1, 9, 25):
        left = number
        with monkeypatch.context() as patch:
            patch.setattr(Target, "put", broken)
            with pytest.raises(StageFailed, match="ConnectionError: gone"):
                send(root, 2, to)
        assert live_and_whole(target_of(to)) == 1
    send(root, 2, to)
    assert live_and_whole(target_of(to)) == 2


def test_what_the_target_refuses(root, to, monkeypatch):
    send(root, 1, to)
    populate(root / "exports" / NAME, repository=root / "r", promote=False, max_batch_size=8)
    with pytest.raises(BadInput, match=r"settings of .*_preprocess are not those of version 1"):
        send(root, 4, to)
    content = Target.content

    def damaged(self, path):
        found = content(self, path)
        return found and found + b"?" * (not path.endswith("config.pbtxt"))

    monkeypatch.setattr(Target, "content", damaged)
    with pytest.raises(BadInput, match="is another file, and version 1 is live there"):
        send(root, 1, to)
    with pytest.raises(StageFailed, match="after it was written"):
        send(root, 2, to)
    assert live_and_whole(target_of(to)) == 1


def test_targets_that_do_not_exist(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file; give a folder"):
        target_of(str(tmp_path / "file"))
    pytest.importorskip("fsspec")
    with pytest.raises(BadInput, match="give s3://"):
        target_of("nothing://bucket")


def test_populate_promotes_in_the_target(root, to, monkeypatch):
    from typer.testing import CliRunner

    from dfvt_deploy.cli import app

    monkeypatch.chdir(root)
    judged(root / "exports", created="2026-04-04")
    done = CliRunner().invoke(app, ["populate", NAME, "--repository", "r", "--to", to])
    assert done.exit_code == 0, done.output
    assert live_and_whole(target_of(to)) == 4
    assert Path("r", NAME, "live").readlink() == Path("4")
