"""Models by name, from folders and from a stand-in of the hub's HTTP interface."""

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import refused, tiny_student, tiny_teacher

import wavflow.hub
from wavflow import Vocoder, load_model
from wavflow.models import fingerprint

hub = pytest.importorskip("huggingface_hub")
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


def same(one: Vocoder, other: Vocoder) -> bool:
    return fingerprint(one) == fingerprint(other)


class Hub(BaseHTTPRequestHandler):
    """Answers what is asked for the files of a repository `me/voice`, and for a commit."""

    files: dict[tuple[str, str], bytes]
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        repo, _, rest = self.path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        self.asked.append(name)
        branch = {commit: branch for branch, commit in COMMITS.items()}.get(revision, revision)
        data = self.files.get((branch, name))
        if repo != "me/voice" or branch not in COMMITS or data is None:
            missing = "Repo" if repo != "me/voice" else "Revision" if branch not in COMMITS else "Entry"
            return self.answer(b"", 404, {"X-Error-Code": f"{missing}NotFound"})
        return self.answer(data, 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMITS[branch]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        address = f"http://{self.headers['Host']}/me/voice"
        answer = {"url": address}
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files["main", line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": f"{address}/commit/c", "commitOid": "c"}
        self.answer(json.dumps(answer).encode(), 200, {"Content-Type": "application/json"})

    def answer(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub with two revisions of a repository, and an empty cache."""
    from huggingface_hub import constants

    handler = type("Served", (Hub,), {"files": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.chdir(tmp_path)
    for revision, model in (("main", tiny_student()), ("v1", tiny_teacher())):
        wavflow.save_model(model, tmp_path / "file.safetensors")
        handler.files[revision, "model.safetensors"] = (tmp_path / "file.safetensors").read_bytes()
    yield handler
    server.shutdown()
    server.server_close()


def test_a_folder_holds_a_model_and_its_card(tmp_path: Path) -> None:
    model = tiny_student()
    model.info = {"steps": 7, "licence": "MIT", "split": {"test": ["a"]}}
    model.save_pretrained(tmp_path / "mine")
    assert same(Vocoder.from_pretrained(tmp_path / "mine"), model)
    assert same(Vocoder.from_pretrained(tmp_path / "mine" / "model.safetensors"), model)
    card = (tmp_path / "mine" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: wavflow\n")
    for words in (f"from_pretrained('{tmp_path / 'mine'}')", "A student of", "hop_length=16", "- licence: MIT"):
        assert words in card
    (tmp_path / "mine" / "README.md").write_text("my own words")
    model.save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "my own words"


def test_a_released_name_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    name = "lj-student-fast"
    assert same(Vocoder.from_pretrained(name), load_model(name))
    refused(lambda: Vocoder.from_pretrained("me/voice"), r"huggingface_hub: pip install 'wavflow\[hub\]'")
    refused(lambda: Vocoder.from_pretrained(name, revision="v1"), "`revision` is of a hub repository")
    refused(lambda: Vocoder.from_pretrained("no-such"), "`name`: there is no model file no-such.*or take", FileNotFoundError)
    refused(lambda: Vocoder.from_pretrained(tmp_path), "`name`: there is no model file .*model.safe", FileNotFoundError)


def test_a_repository_is_fetched_once_and_only_its_safetensors(served: type[Hub]) -> None:
    assert Vocoder.from_pretrained("me/voice").draws_in_parallel
    assert not Vocoder.from_pretrained("me/voice", revision="v1").draws_in_parallel
    assert not Vocoder.from_pretrained("me/voice", revision=COMMITS["v1"]).draws_in_parallel
    assert {name for name in served.asked if name} == {"model.safetensors"}


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [("me/other", None, "Repository Not Found"), ("me/voice", "v9", "v9.*Revision"), ("me/..", None, "me/..")],
)
def test_what_the_hub_lacks_is_told_in_a_line(served: type[Hub], name: str, revision: str | None, words: str) -> None:
    refused(lambda: Vocoder.from_pretrained(name, revision), f"^`name`: there is no folder.*{words}[^\n]*$", FileNotFoundError)


def test_without_a_network_the_cache_is_enough(served: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    Vocoder.from_pretrained("me/voice")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Vocoder.from_pretrained("me/voice").draws_in_parallel
    refused(lambda: Vocoder.from_pretrained("me/voice", "v1"), "^`name`: there is no folder[^\n]*network.$", FileNotFoundError)


def test_what_is_pushed_comes_back(served: type[Hub]) -> None:
    model = tiny_teacher()
    assert model.push_to_hub("me/voice").endswith("/me/voice/commit/c")
    assert same(Vocoder.from_pretrained("me/voice"), model)
    assert "from_pretrained('me/voice')" in served.files["main", "README.md"].decode()
    served.files["main", "README.md"] = b"my own words"
    tiny_student().push_to_hub("me/voice")
    assert served.files["main", "README.md"] == b"my own words"
