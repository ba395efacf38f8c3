"""What lies inside a file that packs other content: archives, compressed streams, databases and tables.

Nothing is unpickled, written to a path that the content names, or run. Whoever reads the members counts what
they inflate to, and stops.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickletools
import re
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, BinaryIO, NamedTuple

from tunesmith.publish.pixels import PNG_HEAD, pixels_of

BLOCK = 1 << 20
# A database and one row of a table are read into memory; larger ones are refused.
MAX_IN_MEMORY = 256 << 20
PICTURE = "picture"


class Member(NamedTuple):
    """Something inside a container: its name there, and its content block by block."""

    name: str
    blocks: Iterable[bytes]


class Container(NamedTuple):
    """A kind of container. `is_certain` is False where its first bytes may also be something else's."""

    kind: str
    members: Callable[[BinaryIO], Iterator[Member]]
    is_certain: bool = True


def container_of(stream: BinaryIO) -> Container | None:
    """The kind of container that a stream holds, by its content, or None. The stream is left at its start."""
    stream.seek(0)
    head = stream.read(512)
    found = next((each for pattern, each in _BY_HEAD if pattern.match(head)), None)
    if found is None and head[257:262] == b"ustar":
        found = Container("tar archive", _tar_members)
    # A zip's table stands at its end: one may hang behind anything, as in programs that unpack themselves.
    if found is None and zipfile.is_zipfile(stream):
        found = Container("zip archive", _zip_members, is_certain=False)
    # What is more than pixels is no container but bytes, and read as all others are.
    if found is None and head.startswith(PNG_HEAD) and is_bare_picture(stream):
        found = Container(PICTURE, _picture_members)
    stream.seek(0)
    return found


def is_bare_picture(stream: BinaryIO) -> bool:
    """Whether a stream is a PNG picture of pixels alone."""
    try:
        return bool(pixels_of(stream))
    except ValueError:
        return False


def looks_packed(content: bytes) -> bool:
    """Whether bytes begin as a container does."""
    return _ANY_HEAD.match(content) is not None


def _blocks(stream: Any) -> Iterator[bytes]:
    with closing(stream):
        while block := stream.read(BLOCK):
            yield block


def _zip_members(stream: BinaryIO) -> Iterator[Member]:
    with zipfile.ZipFile(stream) as archive:
        for entry in archive.infolist():
            if entry.flag_bits & 1:
                raise ValueError("it is encrypted")
            if not entry.is_dir():
                yield Member(entry.filename, _blocks(archive.open(entry)))


def _tar_members(stream: BinaryIO) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for entry in archive:
            if entry.isfile():
                yield Member(entry.name, _blocks(archive.extractfile(entry)))


def _gzip_members(stream: BinaryIO) -> Iterator[Member]:
    yield Member("content", _blocks(gzip.GzipFile(fileobj=stream, mode="rb")))


def _bz2_members(stream: BinaryIO) -> Iterator[Member]:
    yield Member("content", _blocks(bz2.BZ2File(stream)))


def _xz_members(stream: BinaryIO) -> Iterator[Member]:
    # 64 MiB is what the highest preset of xz needs to unpack; a header may ask for 4 GiB.
    unpacker = lzma.LZMADecompressor(memlimit=80 << 20)

    def blocks() -> Iterator[bytes]:
        while not unpacker.eof:
            packed = stream.read(BLOCK) if unpacker.needs_input else b""
            if unpacker.needs_input and not packed:
                raise EOFError("it ends early")
            yield unpacker.decompress(packed, BLOCK)
        if stream.read(1) or unpacker.unused_data:
            raise ValueError("something follows its end")

    yield Member("content", blocks())


def _picture_members(stream: BinaryIO) -> Iterator[Member]:
    yield Member("pixels", [pixels_of(stream)])


def _zlib_members(stream: BinaryIO) -> Iterator[Member]:
    unpacker = zlib.decompressobj()

    def blocks() -> Iterator[bytes]:
        while packed := stream.read(BLOCK):
            while packed:
                yield unpacker.decompress(packed, BLOCK)
                packed = unpacker.unconsumed_tail

    yield Member("content", blocks())


def _pickle_members(stream: BinaryIO) -> Iterator[Member]:
    """The strings of a pickle, read from its operations; none of these is carried out.

    As they stand they touch the bytes of operations and lengths, which may be letters and digits. torch's
    older format is several pickles in a row.
    """

    def strings() -> Iterator[Any]:
        while stream.read(1):
            stream.seek(-1, 1)
            for _, value, _ in pickletools.genops(stream):
                yield value

    yield from _cells("pickle", strings())


def _arrow_codec(name: str) -> Callable[[BinaryIO], Iterator[Member]]:
    def members(stream: BinaryIO) -> Iterator[Member]:
        import pyarrow

        yield Member("content", _blocks(pyarrow.input_stream(stream, compression=name)))

    return members


def _unreadable(stream: BinaryIO) -> Iterator[Member]:
    raise ValueError("there is no reader for it here")
    yield  # makes it a generator, as the others are


# --- databases and tables -------------------------------------------------------------------------------


def _sqlite_members(stream: BinaryIO) -> Iterator[Member]:
    content = bytearray(stream.read(MAX_IN_MEMORY + 1))
    if len(content) > MAX_IN_MEMORY:
        raise ValueError("it is too large")
    content[18:20] = b"\1\1"  # what a write-ahead log held is not in this file; without it none is asked for
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(bytes(content))
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, BLOCK * 16)
        database.execute("PRAGMA trusted_schema=OFF")
        database.text_factory = bytes
        tables = database.execute(
            "SELECT name FROM sqlite_master WHERE type='table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
        )
        for (name,) in tables.fetchall():
            quoted = name.decode("utf-8", "replace").replace('"', '""')
            rows = database.execute(f'SELECT * FROM "{quoted}"')
            yield from _cells(f"table {quoted}", (cell for row in rows for cell in row))


def _parquet_members(stream: BinaryIO) -> Iterator[Member]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(stream)
    groups = (file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
    if max(groups, default=0) > MAX_IN_MEMORY * 4:
        raise ValueError("a row group of it is too large")
    yield from _table_members(file.iter_batches(batch_size=64))


def _arrow_members(stream: BinaryIO) -> Iterator[Member]:
    import pyarrow.ipc

    file = pyarrow.ipc.open_file(stream)
    yield from _table_members(file.get_batch(i) for i in range(file.num_record_batches))


def _table_members(batches: Iterable[Any]) -> Iterator[Member]:
    for batch in batches:
        if batch.nbytes > MAX_IN_MEMORY:
            raise ValueError("64 rows of it are too large")
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            # A slice at a time: as Python objects values take many times their room.
            for start in range(0, len(column), 64):
                yield from _cells(f"column {name}", _leaves(column.slice(start, 64).to_pylist()))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _cells(place: str, cells: Iterable[Any]) -> Iterator[Member]:
    """Texts and bytes of cells line by line, a block a member; packed cells as members of their own."""
    lines: list[bytes] = []
    size = 0
    for cell in cells:
        content = cell.encode("utf-8", "surrogatepass") if isinstance(cell, str) else cell
        if not isinstance(content, bytes) or not content:
            continue
        if looks_packed(content):
            yield Member(place, [content])
        lines.append(content)
        size += len(content)
        if size >= BLOCK:
            yield Member(place, [b"\n".join(lines)])
            lines, size = [], 0
    if lines:
        yield Member(place, [b"\n".join(lines)])


# First bytes, from the formats' specifications.
_BY_HEAD: tuple[tuple[re.Pattern[bytes], Container], ...] = tuple(
    (re.compile(pattern, re.DOTALL), container)
    for pattern, container in (
        (rb"PK(\x03\x04|\x05\x06)", Container("zip archive", _zip_members)),
        (rb"\x1f\x8b\x08", Container("gzip stream", _gzip_members)),
        (rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)", Container("bzip2 stream", _bz2_members)),
        (rb"\xfd7zXZ\0", Container("xz stream", _xz_members)),
        (rb"\x28\xb5\x2f\xfd", Container("Zstandard stream", _arrow_codec("zstd"))),
        (rb"\x04\x22\x4d\x18", Container("LZ4 stream", _arrow_codec("lz4"))),
        (rb"SQLite format 3\0", Container("SQLite database", _sqlite_members)),
        (rb"PAR1", Container("Parquet file", _parquet_members)),
        (rb"ARROW1\0\0", Container("Arrow file", _arrow_members)),
        (rb"7z\xbc\xaf\x27\x1c", Container("7z archive", _unreadable)),
        (rb"Rar!\x1a\x07", Container("RAR archive", _unreadable)),
        (rb"\x80[\2-\x0f]|[(\]}]|c[a-z_.]+\n", Container("pickle", _pickle_members, is_certain=False)),
        (rb"\x78[\x01\x5e\x9c\xda]", Container("zlib stream", _zlib_members, is_certain=False)),
    )
)
_ANY_HEAD = re.compile(b"|".join(b"(?:%b)" % pattern.pattern for pattern, _ in _BY_HEAD), re.DOTALL)
