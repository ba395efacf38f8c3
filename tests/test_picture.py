"""The picture of a run, and the door that lets it out: pixels and nothing beside them."""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from finished_runs import HUB, finished_run

from tunesmith.errors import SecretError
from tunesmith.publish.allowed import outgoing
from tunesmith.publish.curve import HEIGHT, WIDTH, draw_losses, smoothed
from tunesmith.publish.outbound import refuse_secrets, scan
from tunesmith.publish.pixels import pixels_of
from tunesmith.publish.staging import clean_model

TOKEN = "hf" + "_" + "NoSecretAtAllOnlyALongRowOfLetters"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chunks(content: bytes) -> list[bytes]:
    found, place = [], 8
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        found.append(content[place + 4 : place + 8])
        place += 12 + length
    return found


def test_the_picture_is_pixels_alone_and_of_its_size():
    from PIL import Image

    run = finished_run(Path("runs/one"), HUB)
    assert draw_losses(run, Path("loss.png"))
    content = Path("loss.png").read_bytes()
    assert set(chunks(content)) == {b"IHDR", b"IDAT", b"IEND"}
    with Image.open("loss.png") as picture:
        assert picture.size == (WIDTH, HEIGHT)
        assert picture.info == {}
        assert len(picture.getcolors(1 << 20)) > 10
    assert draw_losses(run, Path("again.png"))
    assert Path("again.png").read_bytes() == content


@pytest.mark.parametrize(
    ("rows", "drawn"),
    [
        ([], False),
        ([{"step": 1, "loss": 1.0}], False),
        ([{"step": 1, "loss": 1.0}, {"step": 1, "loss": 2.0}], False),
        ([{"step": 1, "loss": 1.0}, {"step": 2, "loss": "nan"}, {"step": 3, "loss": float("inf")}], False),
        ([{"step": 1, "loss": 1.0}, {"step": 2, "eval_loss": 1.0}], False),
        ([{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}], True),
        ([{"step": 1, "loss": -3e-9}, {"step": 9_000_000, "loss": 4e12}], True),
        ([{"step": 0, "loss": 0.6931}, {"step": 1, "loss": 0.6931}, {"step": 2, "eval_loss": 1e300}], True),
        ([{"step": n, "loss": 1 / n} for n in range(1, 3000)], True),
    ],
)
def test_two_finite_values_make_a_picture(rows, drawn):
    run = finished_run(Path("runs/one"), HUB, rows=rows)
    assert draw_losses(run, Path("loss.png")) is drawn
    assert Path("loss.png").exists() is drawn


def test_the_title_of_a_picture_does_not_name_the_user(monkeypatch):
    monkeypatch.setenv("USER", "aliceliddell")
    drawn = []
    for name in ("of aliceliddell", "of (left out)", "of somebody"):
        run = finished_run(Path("runs") / str(len(drawn)), HUB)
        run.update(name=name)
        draw_losses(run, Path("loss.png"))
        drawn.append(Path("loss.png").read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]


def test_without_pillow_there_is_no_picture(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert not draw_losses(finished_run(Path("runs/one"), HUB), Path("loss.png"))
    assert not Path("loss.png").exists()


def test_the_smoothed_line_lags_behind_at_neither_end():
    points = [(n, float(n)) for n in range(100)]
    assert smoothed(points) == points
    assert smoothed(points[:30]) == []


def test_a_picture_is_replaced_and_never_written_into():
    run = finished_run(Path("runs/one"), HUB)
    mine = run.model_path / "loss.png"
    mine.write_bytes(b"mine")
    Path("stage").mkdir()
    os.link(mine, "stage/loss.png")
    assert draw_losses(run, Path("stage/loss.png"))
    assert mine.read_bytes() == b"mine"


# --- the door


def png(
    width: int = 3, height: int = 2, *, between: bytes = b"", after: bytes = b"", rows: bytes = b""
) -> bytes:
    packed = zlib.compress(rows or (b"\0" + b"\7" * width * 3) * height)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + between + chunk(b"IDAT", packed) + chunk(b"IEND", b"") + after


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def stage_with(content: bytes, name: str = "loss.png") -> Path:
    path = Path("stage") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Path("stage")


def test_the_picture_passes_the_door():
    run = finished_run(Path("runs/one"), HUB)
    Path("stage").mkdir()
    assert draw_losses(run, Path("stage/loss.png"))
    assert clean_model(Path("stage")) == {"loss.png"}
    assert [path.name for path in refuse_secrets(Path("stage")).files] == ["loss.png"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (png(between=chunk(b"tEXt", b"Author\0Ada")), "'tEXt' beside its pixels"),
        (png(between=chunk(b"eXIf", b"MM\0*")), "'eXIf' beside its pixels"),
        (png(after=b"more"), "something follows its end"),
        (png(after=chunk(b"IEND", b"")), "something follows its end"),
        (png(rows=b"\0" + b"\7" * 9), "more or fewer pixels"),
        (png(rows=b"\0" * 21), "more or fewer pixels"),
        (png()[:-4], "broken"),
        (png().replace(b"IDAT", b"IDAt"), "broken"),
        (png(100_000, 100_000, rows=b"\0"), "too large"),
        (b"GIF89a" + b"\0" * 20, "no PNG"),
        (b"a text", "no PNG"),
        (b"", "no PNG"),
    ],
)
def test_a_picture_with_anything_beside_its_pixels_stays_home(content, why):
    stage = stage_with(content)
    found = outgoing(stage)
    assert found.files == []
    assert why in found.left_out[Path("loss.png")]
    assert clean_model(stage) == set()  # the model can do without it


@pytest.mark.parametrize("name", ["other.png", "Loss.png", "pictures/loss.png", "README.md", "loss.png.md"])
def test_no_other_picture_leaves(name):
    assert outgoing(stage_with(png(), name)).files == []


def test_a_picture_that_is_an_archive_too_stays_home():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("notes.txt", "x")
    rows = b"\0" + packed.getvalue().ljust(300, b"\0")
    stored = zlib.compress(rows, 0)
    content = png(100, 1)
    content = content.replace(chunk(b"IDAT", zlib.compress(b"\0" + b"\7" * 300)), chunk(b"IDAT", stored))
    assert pixels_of(io.BytesIO(content)) == rows
    assert "an archive too" in outgoing(stage_with(content)).left_out[Path("loss.png")]


def test_a_secret_in_the_pixels_is_found(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    row = b"\0" + TOKEN.encode().ljust(300, b".")
    content = png(100, 2, rows=row * 2)
    assert TOKEN.encode() not in content
    stage = stage_with(content)
    assert [path.name for path in outgoing(stage).files] == ["loss.png"]
    (first, *_) = scan(stage)
    assert first.inside == ("pixels",)
    with pytest.raises(SecretError, match=r"loss\.png > pixels, byte 1"):
        refuse_secrets(stage)
