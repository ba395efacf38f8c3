"""F06, F45, F46: secrets and pickles stay on this machine, and no name leads out of its folder.

Nothing here is a secret as it stands: prefixes and random bodies meet only when the tests run.
"""

import base64
import gzip
import io
import json
import os
import pickle
import random
import socket
import sqlite3
import string
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from tiny import write_tiny_model

from tunesmith.config.names import checked_name, checked_repo_id, checked_run_name, inside
from tunesmith.errors import ConfigError, SecretError
from tunesmith.publish.allowed import outgoing
from tunesmith.publish.inspection import MAX_DEPTH
from tunesmith.publish.known import known_secrets
from tunesmith.publish.outbound import refuse_secrets, scan
from tunesmith.publish.redaction import redacted

ALNUM = string.ascii_letters + string.digits
WORD = ALNUM + "-_"
HEX = string.hexdigits[:16]
BASE32 = string.ascii_uppercase + "234567"


def drawn(seed, alphabet, length):
    rng = random.Random(f"canary {seed} {alphabet}")
    return "".join(rng.choice(alphabet) for _ in range(length - 1)) + "x7"[seed % 2 if "x" in alphabet else 1]


def web_token():
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": "auth0|81723", "exp": 1893456000}]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*coded, drawn(1, ALNUM, 43)])


CANARIES = {
    "hugging_face": "hf" + "_" + drawn(1, string.ascii_letters, 34),
    "openai": "sk-" + "proj-" + drawn(2, WORD, 156),
    "openai_style": "sk-" + drawn(3, ALNUM, 48),
    "anthropic": "sk-" + "ant-api03-" + drawn(4, WORD, 93),
    "openrouter": "sk-" + "or-v1-" + drawn(5, HEX, 64),
    "github": "ghp" + "_" + drawn(6, ALNUM, 36),
    "github_fine": "github" + "_pat_" + drawn(7, ALNUM, 22) + "_" + drawn(8, ALNUM, 59),
    "gitlab": "gl" + "pat-" + drawn(9, ALNUM, 20),
    "aws_id": "AK" + "IA" + drawn(10, BASE32, 16),
    "aws_secret": "aws_secret_access_key = " + drawn(11, ALNUM + "/+", 40),
    "google": "AI" + "za" + drawn(12, WORD, 35),
    "slack": "xo" + "xb-2718281828459-2718281828460-" + drawn(13, ALNUM, 24),
    "stripe": "sk" + "_live_" + drawn(14, ALNUM, 24),
    "npm": "npm" + "_" + drawn(15, ALNUM, 36),
    "pypi": "pypi-" + "AgEIcHlwaS5vcmc" + drawn(16, WORD, 120),
    "replicate": "r8" + "_" + drawn(17, ALNUM, 37),
    "groq": "gsk" + "_" + drawn(18, ALNUM, 52),
    "wandb": "WANDB_API_KEY=" + drawn(19, HEX, 40),
    "jwt": web_token(),
    "url_password": "postgres://svc_shop:" + drawn(20, ALNUM, 11) + "7b@db.shopwell.io:5432/shop",
    "private_key": "-----BEGIN "
    + f"PRIVATE KEY-----\n{drawn(21, ALNUM, 64)}\n-----END "
    + "PRIVATE KEY-----",
}
# Without a shape: only that this machine holds it tells that it is a secret.
SHAPELESS = 'Wq7/vR+zu"4kLm'


def zipped(content, name="notes.txt", method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def tarred(content):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("notes.txt")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def in_sqlite(content):
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE runs (name TEXT, config TEXT, packed BLOB)")
        # Long enough for pages that continue elsewhere, so that the secret is no one piece of the file.
        config = "y " * 2500 + content.decode() + " z" * 2500
        database.execute("INSERT INTO runs VALUES (?, ?, ?)", ("a", config, None))
        return database.serialize()


def packed_in_sqlite(content):
    with sqlite3.connect(":memory:") as database:
        database.execute("PRAGMA encoding='UTF-16'")
        database.execute('CREATE TABLE "odd ""name" (packed BLOB)')
        database.execute('INSERT INTO "odd ""name" VALUES (?)', (gzip.compress(content),))
        return database.serialize()


def in_parquet(content, compression="zstd"):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    rows = [{"messages": [{"role": "user", "content": content.decode()}], "n": 1}] * 3
    pq.write_table(pa.Table.from_pylist(rows), file, compression=compression)
    return file.getvalue()


def in_arrow(content):
    import pyarrow as pa

    table = pa.table({"text": [content.decode(), "x" * 5000]})
    file = io.BytesIO()
    with pa.ipc.new_file(file, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return file.getvalue()


def in_safetensors_header(content):
    header = {"__metadata__": {"note": content.decode()}, "w": tensor_entry("F32", 0, 4)}
    return safetensors(header, b"\0" * 4)


def tensor_entry(dtype, start, end):
    return {"dtype": dtype, "shape": [end - start], "data_offsets": [start, end]}


def safetensors(header, tensors):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def torch_saved(content):
    import torch

    file = io.BytesIO()
    torch.save({"state": torch.zeros(3), "note": content.decode()}, file)
    return file.getvalue()


def escaped(content):
    return b'{"a": "' + "".join(f"\\u{ord(c):04x}" for c in content.decode()).encode() + b'"}'


def embedded_pickle(content):
    return json.dumps({"args": base64.b64encode(pickle.dumps({"token": content.decode()})).decode()}).encode()


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])


CONTAINERS = {
    "plain": lambda c: b"Notes.\n" + c + b"\nend",
    "json": lambda c: json.dumps({"config": {"k": c.decode()}}, indent=1).encode(),
    "json_in_json": lambda c: json.dumps({"log": json.dumps({"k": c.decode().replace("/", "\\/")})}).encode(),
    "json_escaped": escaped,
    "url_encoded": lambda c: b"https://a.io/?q=" + "".join(f"%{b:02X}" for b in c).encode(),
    "utf16": lambda c: ("Notes.\n" + c.decode() + "\n").encode("utf-16"),
    "utf32": lambda c: c.decode().encode("utf-32-be"),
    "base64": lambda c: b"data: " + base64.b64encode(b"key is " + c),
    "base64_lines": lambda c: b"head\n" + base64.encodebytes(b"x" * 50 + b"\n" + c + b"\n" + b"y" * 50),
    "base64_url": lambda c: b'{"a":"' + base64.urlsafe_b64encode(b"?\xff>" + b" " + c) + b'"}',
    "base64_twice": lambda c: base64.b64encode(base64.b64encode(c)),
    "base64_gzip": lambda c: b'{"a":"' + base64.b64encode(gzip.compress(c)) + b'"}',
    "pickle_in_base64": embedded_pickle,
    "zip": zipped,
    "zip_in_zip": lambda c: zipped(zipped(c), "inner.zip"),
    "zip_behind_text": lambda c: b"#!/bin/sh\nexit\n" * 9 + zipped(c),
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bzip2": lambda c: __import__("bz2").compress(c),
    "xz": lambda c: __import__("lzma").compress(c),
    "zstd": lambda c: __import__("pyarrow").compress(c, codec="zstd", asbytes=True),
    "tar": tarred,
    "tar_gz": lambda c: gzip.compress(tarred(c)),
    "tar_of_gzip": lambda c: tarred(gzip.compress(c)),
    "pickle": lambda c: pickle.dumps({"hub_token": c.decode()}),
    "pickle_0": lambda c: pickle.dumps({"hub_token": c.decode()}, protocol=0),
    "torch_save": torch_saved,
    "sqlite": in_sqlite,
    "packed_in_sqlite": packed_in_sqlite,
    "parquet": in_parquet,
    "arrow": in_arrow,
    "safetensors_header": in_safetensors_header,
    "protocol_buffer": lambda c: (
        b"\x12\x10" + b"z" * 16 + b"\x1a" + varint(len(c)) + c + b"2\x10" + b"z" * 16
    ),
    "gguf_metadata": lambda c: b"GGUF" + struct.pack("<Q", len(c)) + c + struct.pack("<Q", 49) + b"k" * 49,
}


@pytest.fixture(autouse=True)
def no_logins(monkeypatch, tmp_path_factory):
    home = tmp_path_factory.mktemp("logins")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("clean") / "model")


@pytest.mark.parametrize("pack", CONTAINERS.values(), ids=CONTAINERS)
def test_F06_every_canary_is_found_in(pack, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOPWELL_API_KEY", SHAPELESS)
    missed, shown = [], []
    for name, secret in (CANARIES | {"shapeless": SHAPELESS}).items():
        path = tmp_path / f"{name}.txt"
        path.write_bytes(pack(secret.encode()))
        found = scan([path])
        missed += [] if any(each.offset is not None for each in found) else [name]
        shown += [name for each in found if secret[-12:] in f"{each} {each.where}"]
    assert (missed, shown) == ([], [])


def test_F06_the_place_is_the_secrets_byte(tmp_path):
    secret = CANARIES["github"].encode()
    for before in (0, 1, 2_097_140, 2_097_152, 5_000_000):  # around the borders of pieces
        path = tmp_path / "README.md"
        path.write_bytes((b"word \n" * (before // 6 + 1))[:before] + b" " + secret + b"\n" + b"more\n" * 10)
        assert [(each.offset, each.kind) for each in scan([path])] == [(before + 1, "GitHub token")]
    path.write_bytes(b'{"a":"\\"\\u00e4' + secret + b'"}')
    assert [each.offset for each in scan([path])] == [path.read_bytes().index(secret)]


def test_F06_a_secret_of_this_machine_is_found_in_tensors_of_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr("tunesmith.publish.tensor_files.TEXT_SIZE", 1 << 16)
    monkeypatch.setenv("HF_TOKEN", CANARIES["hugging_face"])
    size, place = 5 << 20, (2 << 20) - 7
    tensors = bytearray(random.Random(1).randbytes(size))
    tensors[place : place + 37] = CANARIES["hugging_face"].encode()
    coded = base64.b64encode(b"a" + CANARIES["hugging_face"].encode())
    tensors[3 << 20 : (3 << 20) + len(coded)] = coded
    for name, content in (
        ("model.safetensors", safetensors({"w": tensor_entry("F32", 0, size)}, tensors)),
        ("model.gguf", b"GGUF" + bytes(tensors)),
    ):
        (tmp_path / name).write_bytes(content)
        found = scan([tmp_path / name])
        assert {each.kind for each in found} == {"the value of HF_TOKEN"}
        assert content.index(CANARIES["hugging_face"].encode()) in {each.offset for each in found}
        assert len(found) == 2


def test_F06_bytes_kept_in_a_tensor_are_read_as_text(tmp_path, monkeypatch):
    monkeypatch.setattr("tunesmith.publish.tensor_files.TEXT_SIZE", 1 << 10)
    noise, secret = random.Random(1).randbytes(1 << 16), CANARIES["openai"].encode()
    header = {
        "w": tensor_entry("F32", 0, 1 << 16),
        "args": tensor_entry("U8", 1 << 16, (1 << 16) + len(secret) + 1),
    }
    (tmp_path / "state.safetensors").write_bytes(safetensors(header, noise + b" " + secret))
    assert [each.kind for each in scan(tmp_path)] == ["OpenAI API key"]


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "login", "stored", "netrc"]
)
def test_F06_secrets_of_this_machine_are_known_wherever_they_are_kept(name, monkeypatch, no_logins):
    secret = "0a9Zk_4vQ9-pTx1mm2Wd"
    if name == "login":
        (no_logins / "token").write_text(secret + "\n")
    elif name == "stored":
        (no_logins / "stored_tokens").write_text(f"[work]\nhf_token = {secret}\n")
    elif name == "netrc":
        (no_logins / "netrc").write_text(f"machine api.wandb.ai login user password {secret}\n")
        (no_logins / "netrc").chmod(0o600)
    else:
        monkeypatch.setenv(name, secret)
    assert secret.encode() in known_secrets()


def test_F06_words_numbers_and_paths_are_no_secrets(tmp_path):
    values = ["true", "tokenizer", "0", "12345678", "aaaaaaaaaaaa", str(tmp_path), "disabled", ""]
    assert known_secrets((), {f"X{i}_KEY": value for i, value in enumerate(values)}) == {}
    assert known_secrets((), {"PATH_TO_KEYBOARD": "Zk4vQ9pTx1mm2", "MONKEY": "Zk4vQ9pTx1mm2"}) == {}


def test_F06_a_clean_model_leaves_whole(model):
    assert scan(model) == []
    leaving = refuse_secrets(model)
    assert {path.name for path in leaving.files} == {path.name for path in model.iterdir()}
    assert leaving.left_out == {}


def test_F06_noise_and_ids_are_no_secrets(tmp_path):
    rng = random.Random(3)
    (tmp_path / "noise").write_bytes(rng.randbytes(8 << 20))
    (tmp_path / "base64").write_bytes(base64.b64encode(rng.randbytes(3 << 20)))
    (tmp_path / "metrics.jsonl").write_text(
        "".join(f'{{"loss": {rng.random()}, "id": "{rng.randbytes(32).hex()}"}}\n' for _ in range(5000))
    )
    assert scan(sorted(tmp_path.iterdir())) == []


def test_F06_a_folder_with_a_secret_is_refused_with_file_byte_and_next_step(tmp_path):
    secret = CANARIES["hugging_face"]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text(f"# Model\n\nI used {secret}.\n")
    with pytest.raises(SecretError) as raised:
        refuse_secrets(tmp_path)
    said = f"{raised.value.message} {raised.value.where} {raised.value.fix}"
    assert "Hugging Face token" in said
    assert "README.md, byte 16" in said
    assert secret not in said
    assert secret[-10:] not in said
    assert raised.value.exit_code == 2


def test_F06_a_secret_in_a_name_is_found_and_not_repeated(tmp_path):
    secret = CANARIES["github"]
    (tmp_path / f"{secret}.gguf").write_bytes(b"GGUF" + b"\0" * 20)
    (tmp_path / "member.txt").write_bytes(zipped(b"nothing", f"{secret}.txt"))
    for found in (scan(tmp_path), scan([tmp_path / "member.txt"])):
        assert any("name" in each.kind for each in found)
        assert secret not in str(found)


# --- archives that are made to harm ---------------------------------------------------------------------


def bomb(megabytes):
    return gzip.compress(b"\0" * (megabytes << 20), 9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: bomb(1000),
        lambda: zipped(bomb(300)),
        lambda: gzip.compress(gzip.compress(bomb(300))),
        lambda: zipped(b"a" * (300 << 20)),
        lambda: b'{"a":"' + base64.b64encode(bomb(300)) + b'"}',
    ],
    ids=["gzip", "gzip_in_zip", "gzip_thrice", "zip", "base64"],
)
def test_F06_a_bomb_is_refused_in_bounded_time_and_memory(make, tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(make())
    tracemalloc.start()
    started = time.monotonic()
    found = scan([path])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ["not searched" in each.kind for each in found] == [True]
    assert time.monotonic() - started < 90
    assert peak < 64 << 20


def test_F06_bytes_of_an_archive_that_look_like_an_escape_are_none(tmp_path):
    path = tmp_path / "archive"
    for name in (r"a-long-name\n.txt", "one-of-100%41.txt", r"a-long-name-\u0041"):
        with path.open("wb") as file, gzip.GzipFile(name, "wb", fileobj=file) as archive:
            archive.write(b"nothing to hide" * 100)
        assert name.encode() in path.read_bytes()
        assert scan([path]) == []


def test_F06_what_is_packed_too_deep_or_broken_is_refused(tmp_path):
    content = CANARIES["openai"].encode()
    for _ in range(MAX_DEPTH + 2):
        content = gzip.compress(content)
    encrypted = bytearray(zipped(b"x"))
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\1\2") + 8] |= 1
    whole = gzip.compress(random.Random(1).randbytes(5000))
    odd = {
        "deep": content, "encrypted": bytes(encrypted), "torn": whole[:-900],
        "altered": whole[:900] + b"?" + whole[901:], "zip": zipped(b"x")[:40],
        "sqlite": b"SQLite format 3\0" + b"\xff" * 500, "parquet": b"PAR1 and no more",
        "7z": b"7z\xbc\xaf\x27\x1c rest", "xz": b"\xfd7zXZ\0 rest",
    }  # fmt: skip
    for name, each in odd.items():
        path = tmp_path / name
        path.write_bytes(each)
        assert any("searched" in finding.kind for finding in scan([path])), name


def test_F06_files_cut_or_altered_anywhere_raise_nothing(tmp_path):
    rng = random.Random(5)
    path = tmp_path / "odd"
    for pack in (
        zipped,
        tarred,
        in_sqlite,
        in_parquet,
        in_arrow,
        torch_saved,
        in_safetensors_header,
        gzip.compress,
    ):
        whole = pack(b"nothing to see " * 20)
        for _ in range(12):
            content = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.3 else whole)
            for _ in range(rng.randrange(6) if content else 0):
                content[rng.randrange(len(content))] = rng.randrange(256)
            path.write_bytes(content)
            scan([path])


# --- what stays home ------------------------------------------------------------------------------------


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_F45_training_args_with_a_token_never_leave(model, tmp_path):
    import torch
    from transformers import TrainingArguments

    secret = CANARIES["hugging_face"]
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    arguments = TrainingArguments(output_dir=str(tmp_path / "out"), hub_token=secret, report_to="none")
    torch.save(arguments, tmp_path / "training_args.bin")
    assert [each.path for each in scan([tmp_path / "training_args.bin"])]
    leaving = refuse_secrets(tmp_path)
    assert leaving.left_out == {Path("training_args.bin"): "a pickle or may be one: loading it runs code"}
    assert not [path for path in leaving.files if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("protocol", range(6))
def test_F45_a_pickle_under_any_name_stays_home_and_is_never_loaded(protocol, tmp_path):
    import torch

    touched = tmp_path / "touched"
    content = pickle.dumps(Canary(touched), protocol if protocol < 6 else 2)
    names = [
        "a.bin", "optimizer.pt", "rng_state.pth", "x.pkl", "x.ckpt", "X.PKL", "config.json", "README.md",
    ]  # fmt: skip
    names += ["model.safetensors", "model.gguf", "tokenizer.model", "merges.txt", "chat_template.jinja"]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(content)
    torch.save(Canary(touched), folder / "adapter_model.safetensors")
    torch.save(Canary(touched), folder / "tokenizer.json")
    leaving = outgoing(folder)
    assert leaving.files == []
    assert len(leaving.left_out) == len(names) + 2
    scan(sorted(folder.iterdir()))
    assert not touched.exists()


def test_F45_only_named_files_leave_and_the_rest_is_told_why(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "vocab.json").write_text("{}")
    folder = tmp_path / "model"
    (folder / ".git").mkdir(parents=True)
    (folder / "checkpoint-5").mkdir()
    kept = [
        "README.md", "LICENSE", "Modelfile", "config.json", "tokenizer.json", "chat_template.jinja",
        "model.safetensors.index.json", "trainer_state.json", "metrics.jsonl", "merges.txt",
        "tokenizer.model", "adapter_config.json", "checkpoint-5/manifest.json", "checkpoint-5/state.json",
    ]  # fmt: skip
    for name in [
        *kept,
        ".env",
        ".git/config.json",
        "notes.txt",
        "run.json",
        "log.txt",
        "train.py",
        "events.out.tfevents.1",
    ]:
        (folder / name).write_text("{}" if name.endswith("json") else "text")
    (folder / "model-00001-of-00002.safetensors").write_bytes(safetensors({}, b""))
    (folder / "tiny-Q8_0.gguf").write_bytes(b"GGUF" + b"\0" * 20)
    (folder / "vocab.json").symlink_to(outside / "vocab.json")
    (folder / "added_tokens.json").symlink_to(folder / "config.json")
    (folder / "linked").symlink_to(outside)
    (folder / "special_tokens_map.json").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "vocab.txt")
    leaving = outgoing(folder)
    expected = {*kept, "model-00001-of-00002.safetensors", "tiny-Q8_0.gguf", "added_tokens.json"}
    assert {path.relative_to(folder).as_posix() for path in leaving.files} == expected
    reasons = {path.as_posix(): reason for path, reason in leaving.left_out.items()}
    links = ["vocab.json", "linked", "special_tokens_map.json"]
    others = ["notes.txt", "run.json", "log.txt", "train.py", "events.out.tfevents.1", "vocab.txt"]
    assert sorted(reasons) == sorted([".env", ".git", *links, *others])
    assert reasons["vocab.json"] == "a link that leads out of the folder"
    assert reasons["vocab.txt"] == "not a regular file"


# --- names ----------------------------------------------------------------------------------------------

DEVICES = [
    "CON", "con", "PRN", "AUX", "NUL", "nul.txt", "NUL.safetensors", "COM1", "com9.json", "LPT1", "COM¹",
    "CONIN$",
]  # fmt: skip
UPWARDS = [
    "..", "../x", "../../etc/passwd", "a/../../b", "a/..", "./..", "..\\x", "a\\..\\..\\b", "....//x",
    "a..b/..", "%2e%2e/x", "..%2fx", "..;/x", "\u2025/x", "\uff0e\uff0e/x", ".. /x", " ..", "../", "..//",
    "a/b/../../../c",
]  # fmt: skip
ABSOLUTE = [
    "/", "/etc/passwd", "//server/share", "\\\\server\\share\\x", "\\\\?\\C:\\x", "\\\\.\\NUL", "C:\\x",
    "C:x", "c:/windows", "D:", "~", "~/x", "~root/x", "file:///etc/passwd", "\\x", "/dev/null", "//",
    "\\\\", "Z:/", "$HOME/x:y",
]  # fmt: skip
CONTROLS = [
    f"a{chr(code)}b" for code in (*range(32), 127, 0x85, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF, 0xAD)
]
BIDI = [f"model{chr(code)}fdp.exe" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x061C)]
SHAPES = [
    "", " ", ".", "a" * 256, "a/" * 600, "x" * 97, "a ", "a.", ".hidden/..", "a/ /..", "\ud800",
    "a\udcff",
]  # fmt: skip
OTHERS = [
    "a:b", "a|b", "a*b", "a?b", 'a"b', "a<b>", "a\\b", "`id`", "$(id)", "a;b", "a&b", "-rf", "--help",
    "a b", "naïve", "模型", "a@b", "a#b", "a%00b", "datasets/a/b", "a//b", "/a", "a/", "a--b/../c", "{a}",
    "a\tb", "é/..", "a=b", "a,b", "'a'", "a!b",
]  # fmt: skip
HOSTILE = [*DEVICES, *UPWARDS, *ABSOLUTE, *CONTROLS, *BIDI, *SHAPES, *OTHERS]
HOSTILE += [f"{prefix}{device}" for prefix in ("a/", "x/y/") for device in DEVICES]
HOSTILE += [f"{upward}/{device}" for upward in ("..", "../..", "/") for device in DEVICES]


def test_F46_no_hostile_name_leads_out_of_the_folder(tmp_path):
    root = tmp_path / "root"
    (root / "x").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path)
    assert len(set(HOSTILE)) >= 200
    refused = []
    for name in [*HOSTILE, "link", "link/x"]:
        try:
            path = inside(root, name)
        except ConfigError as error:
            refused.append(error)
            continue
        assert path.resolve().is_relative_to(root)
        assert path.resolve() != root
        assert not [c for c in name if not c.isprintable() or c in "\\:"]
    for name in (
        "model/config.json",
        "checkpoint-5/model-00001-of-00002.safetensors",
        "..a",
        "a..b",
        ".hidden",
    ):
        assert inside(root, name) == root / name


@pytest.mark.parametrize("check", [checked_name, checked_run_name])
def test_F46_every_hostile_run_name_is_refused_with_the_pattern(check):
    taken = []
    for name in HOSTILE:
        with pytest.raises(ConfigError) as raised:
            taken.append(check(name))
        assert "1 to 96 letters" in raised.value.fix
        assert raised.value.message.isascii()
    assert taken == []
    for name in ("sft-qwen3-0.6b-20261126-124115", "a", "_x", "Run_2", "console", "com10", "nullable.v1"):
        assert check(name) == name


def test_F46_every_hostile_repository_id_is_refused_with_the_pattern():
    for name in [*HOSTILE, *(f"owner/{each}" for each in HOSTILE), "a/b.git", "a--b", "NUL/x", "x/aux", None]:
        with pytest.raises(ConfigError) as raised:
            checked_repo_id(name)
        assert "OWNER/NAME" in raised.value.fix
        assert raised.value.message.isascii()
    for name in (
        "owner/model",
        "gpt2",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "a/b_c.d-e",
        "Foo-BAR_foo.bar123",
    ):
        assert checked_repo_id(name) == name


# --- the record of a run --------------------------------------------------------------------------------


def test_F06_a_redacted_record_names_neither_machine_nor_user_nor_secret(monkeypatch):
    monkeypatch.setenv("HOME", "/home/okonkwo")
    monkeypatch.setenv("USER", "okonkwo")
    monkeypatch.setattr(socket, "gethostname", lambda: "mina-laptop.shopwell.io")
    record = {
        "name": "sft-a", "process": {"pid": 4, "host": "mina-laptop.shopwell.io"},
        "metrics": {"loss": 1.5}, "git": None,
        "config": {
            "model": "/home/okonkwo/models/tiny", "dataset": ["~/data/rows.jsonl", "org/set"],
            "trl": {"hub_token": CANARIES["hugging_face"]}, "teacher_model": "C:\\Users\\okonkwo\\m\\big",
        },
        "notes": ["read /home/okonkwo/x.jsonl on mina-laptop", "see https://hf.co/docs/trl/sft for it"],
    }  # fmt: skip
    clean = redacted(record)
    text = json.dumps(clean)
    for private in ("okonkwo", "mina-laptop", CANARIES["hugging_face"], "/home", "Users"):
        assert private not in text
    assert clean["config"]["model"] == "tiny"
    assert clean["config"]["dataset"] == ["rows.jsonl", "org/set"]
    assert clean["notes"][1] == record["notes"][1]
    assert clean["metrics"] == {"loss": 1.5}
    assert "process" in record
