"""Files that are replaced whole: temporary file, fsync, rename."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


def write_text_whole(path: Path, text: str) -> None:
    """Replace `path` by `text`, so that a reader or a crash sees the old content or the new, never a part."""
    write_bytes_whole(path, text.encode())


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, as `write_text_whole` does."""
    with replaced_whole(path) as file:
        file.write(content)


@contextlib.contextmanager
def replaced_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when it is done, and leaves it alone when that fails."""
    # Not tempfile: its files are for their owner only, and others may want to read a run.
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json_whole(path: Path, document: dict[str, Any]) -> None:
    """Replace `path` by `document` as indented JSON."""
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name of other bytes holds lone surrogates; JSON can escape them
        text = json.dumps(document, indent=2, default=str)
    write_text_whole(path, text + "\n")


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut, where the system can (Windows can't)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_json_line(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a file of JSON lines."""
    with path.open("ab+") as file:
        # A kill may have torn the last line: begin a new one, or this row is lost with it.
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write((b"\n" if torn else b"") + json.dumps(row).encode() + b"\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, torn lines left out; none where there is no file."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
