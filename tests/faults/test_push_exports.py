"""F28: exported files go to the Hub with the model, but none that wasn't shown to answer like it."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFWriter
from running import tunesmith
from test_push import REPO, make_run

from tunesmith.runs.fingerprint import model_fingerprint
from tunesmith.runs.folder import RunFolder

NAME = "one-Q8_0.gguf"


def write_gguf(path: Path, said: str = "one") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    writer.add_name(said)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def export_of(run: Path, *, verified: bool | None) -> None:
    """A GGUF file with its Modelfile, recorded as `tunesmith export` does it."""
    path = run / "export" / NAME
    write_gguf(path)
    (path.parent / "Modelfile").write_text(f"FROM ./{NAME}\n")
    entry = {
        "name": NAME, "format": "gguf", "quantization": "Q8_0", "size_bytes": path.stat().st_size,
        "verified": verified, "fingerprint": model_fingerprint(str(path)), "mean_divergence": 0.00025,
    }  # fmt: skip
    RunFolder.open(run).update(export={"path": str(path.parent.resolve()), "files": [entry]})


@pytest.fixture
def done(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_run(tiny_model)


def test_f28_a_verified_file_goes_with_the_model_and_stands_in_the_card(hub, done):
    export_of(done, verified=True)
    ran = tunesmith("publish", done)
    assert ran.code == 0, ran.err
    assert NAME in ran.err
    files = hub.files(REPO)
    assert files[NAME] == (done / "export" / NAME).read_bytes()
    assert files["Modelfile"] == f"FROM ./{NAME}\n".encode()
    assert f"llama-cli -hf {REPO}:Q8_0".encode() in files["README.md"]
    assert str(done.resolve()).encode() not in files["README.md"]
    assert tunesmith("publish", done).code == 0
    assert hub.num_commits(REPO) == 1


@pytest.mark.parametrize(
    ("verified", "said"),
    [
        (False, f"{NAME} was found not to answer like the trained model"),
        (None, f"{NAME} was never compared with the trained model"),
    ],
)
def test_f28_a_file_that_is_not_verified_is_refused_until_it_is_forced(hub, done, verified, said):
    export_of(done, verified=verified)
    refused = tunesmith("publish", done)
    assert refused.code == 1
    assert said in refused.err
    assert "--force" in refused.err
    assert REPO not in hub.repos
    assert tunesmith("publish", done, "--force").code == 0
    assert NAME in hub.files(REPO)
    card = hub.files(REPO)["README.md"].decode()
    assert ("NOT VERIFIED" in card) is (verified is False)


def test_f28_a_file_that_was_changed_since_it_was_compared_is_refused(hub, done):
    export_of(done, verified=True)
    write_gguf(done / "export" / NAME, "two")
    refused = tunesmith("publish", done)
    assert refused.code == 1
    assert "was changed since it was compared" in refused.err


def test_a_file_that_is_no_longer_here_is_left_out_and_leaves_the_hub(hub, done):
    export_of(done, verified=True)
    assert tunesmith("publish", done).code == 0
    (done / "export" / NAME).unlink()
    hub.add(hub.repos[REPO], "main", hub.files(REPO) | {"theirs.gguf": b"GGUF"})
    assert tunesmith("publish", done).code == 0
    left = hub.files(REPO)
    assert f"{done.name}-Q8_0.gguf" == NAME
    assert NAME not in left
    assert "theirs.gguf" in left
    assert b"llama-cli" not in left["README.md"]
