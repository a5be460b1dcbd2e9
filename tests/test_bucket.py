"""Shards in a bucket: read with the right key, refused in one line, waited for, and trained from as from a folder."""

import gc
import json
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import TRAIN, call, is_refused, make_sounds, succeeds
from helpers import refused, tiny_mel
from safetensors.torch import load_file

from wavflow.commands.prepare import prepare
from wavflow.data import pieces
from wavflow.data.bucket import upload_folder
from wavflow.data.pieces import Shards

with warnings.catch_warnings():  # what these import is not ours
    warnings.simplefilter("ignore")
    pytest.importorskip("litdata", reason="pip install 'wavflow[scale]'", exc_type=ImportError)
    moto = pytest.importorskip("moto.server", reason="pip install 'moto[server]'", exc_type=ImportError)
    import boto3
    import requests

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Server:
    """A server that speaks S3, in a thread; stopped and started again it holds what it held."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self.running = moto.ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self.running.start()

    def stop(self) -> None:
        self.running.stop()

    def away(self, seconds: float) -> threading.Timer:
        self.stop()
        back = threading.Timer(seconds, self.start)
        back.start()
        return back


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_sounds(tmp_path / "sounds", (0.3,) * 12)
    prepare(tmp_path / "sounds", tmp_path / "shards", tiny_mel(), shard_megabytes=0.005, validation=0.2)
    return tmp_path / "shards"


@pytest.fixture
def server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "*"}
    for name, value in (keys | {"AWS_ENDPOINT_URL": server.url, "AWS_EC2_METADATA_DISABLED": "true"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("litdata.utilities.dataset_utilities._DEFAULT_CACHE_DIR", str(tmp_path / "cache"))
    boto3.client("s3").create_bucket(Bucket="bucket")
    upload_folder(folder, "s3://bucket/shards")
    yield server
    requests.post(f"{server.url}/moto-api/reset", timeout=10)
    server.stop()
    gc.collect()  # litdata leaves to it what it opened


def test_a_bucket_is_read_as_a_folder_is_and_waited_for(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = Shards(f"{folder}/train"), Shards("s3://bucket/shards/train")
    assert len(there) == len(here)
    assert len(there.files) > 3
    server.stop()
    monkeypatch.setattr(pieces, "time", SimpleNamespace(sleep=lambda _: server.start()))
    with pytest.warns(UserWarning, match="It is tried again in 2 s"):
        audio = there.piece(1, 0)["audio"]
    torch.testing.assert_close(audio, here.piece(1, 0)["audio"])
    monkeypatch.setattr(pieces, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(pieces, "PAUSES", (0.1,))
    server.stop()
    with pytest.warns(UserWarning, match=r"tried again in 0\.1 s"):
        refused(lambda: there.piece(2, 0), r"`path` must name shards .* s3://bucket/shards/train can't be", OSError)
    server.start()


def test_a_wrong_key_and_a_missing_bucket_are_told_in_one_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*(option for option in TRAIN if option != "data=folder"), "data=shards", f"output={tmp_path / 'run'}"]
    (tmp_path / "none").mkdir()
    for path in ("s3://elsewhere/shards", "s3://bucket/nothing"):
        is_refused(tmp_path / "none", "train", *options, f"data.path={path}", words=f"`path` must name shards|{path}|404")
    iam = boto3.client("iam")
    iam.create_user(UserName="user")
    key = iam.create_access_key(UserName="user")["AccessKey"]
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="user", PolicyName="all", PolicyDocument=json.dumps(policy))
    requests.post(f"{server.url}/moto-api/reset-auth", data=b"0", timeout=10)  # from now on keys are checked
    try:
        refused(lambda: Shards("s3://bucket/shards/train"), r"can't be \(An error occurred \(403\)", OSError)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        assert len(Shards("s3://bucket/shards/train"))
    finally:
        requests.post(f"{server.url}/moto-api/reset-auth", data=b"inf", timeout=10)


def test_a_training_goes_on_in_the_middle_as_if_undisturbed(folder: Path, server: Server, tmp_path: Path) -> None:
    options = [*(option for option in TRAIN if option != "data=folder"), "data=shards", "~callbacks.listen"]
    options += ["trainer.val_check_interval=2", "stage.final_fraction=1.0"]  # else the rate hangs on max_steps
    run = ["data.path=s3://bucket/shards", f"output={tmp_path / 'run'}"]
    succeeds("train", *options, *run, "trainer.max_steps=2")
    back = server.away(2.0)
    outcome = call("train", *options, *run, "trainer.max_steps=6", "resume=auto")
    back.join()
    assert outcome.status == 0, outcome.err
    succeeds("train", *options, f"data.path={folder}", f"output={tmp_path / 'whole'}", "trainer.max_steps=6")
    run_weights, weights = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    torch.testing.assert_close(run_weights, weights, rtol=0, atol=0)
    splits = [(tmp_path / name / "split.json").read_text() for name in ("run", "whole")]
    assert splits[0] == splits[1], "a resumed or distilled run needs to know it"


def test_prepare_copies_shards_into_a_bucket(folder: Path, server: Server, tmp_path: Path) -> None:
    sounds = folder.parent / "sounds"
    options = {"shard_megabytes": 0.005, "validation": 0.2}
    prepare(sounds, tmp_path / "again", tiny_mel(), **options, upload="s3://bucket/copied")
    client = boto3.client("s3")
    for path in (path for path in (tmp_path / "again").rglob("*") if path.is_file()):
        name = path.relative_to(tmp_path / "again").as_posix()
        if not name.startswith("."):
            assert client.get_object(Bucket="bucket", Key=f"copied/{name}")["Body"].read() == path.read_bytes()
    audio = [Shards(f"{place}/train").piece(1, 0)["audio"] for place in ("s3://bucket/copied", folder)]
    torch.testing.assert_close(*audio)
    refused(lambda: prepare(sounds, "s3://bucket/x", tiny_mel()), "`output` must be a folder here, .*--upload s3://bucket/x")
    for wrong, words in (
        ("s3://elsewhere/x", r"`upload` must name a bucket .*404"),
        ("gs://bucket/x", "`upload` must be s3://"),
    ):
        with pytest.raises((OSError, ValueError), match=words):
            prepare(sounds, tmp_path / "third", tiny_mel(), upload=wrong)
    assert not (tmp_path / "third").exists(), "it is told before the work"
