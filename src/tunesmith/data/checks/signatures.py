"""Signatures of rows: a fixed number of bytes each, from which `duplicates` tells what is alike.

So text is read once, shards can be signed apart, and the signatures of the parts put together are the
signatures of the whole.

A row's text is cut into words, each hashed to 64 bits; everything else is arithmetic on those hashes:

- exact: a polynomial over the words. Case, white space and Unicode forms (NFKC) make no difference.
- near: MinHash over runs of three words. Of each of 208 minima four bits are kept; eight of them are a band
  of 32 bits, 26 bands a row. Rows that have a band in common are candidates, and all 208 minima decide: the
  part that agrees estimates the Jaccard similarity, with a standard error of 3 percentage points at 80 %.
- near, but with another answer: one bit each of 64 minima of the answer alone. Rows with the same long system
  prompt or the same passage to read are nearly the same text, and no duplicates if their answers differ.

Kept are 145 bytes a row: the row number, three hashes, 26 bands, 64 bits of the answer and a flag. Signing
needs some 40 bytes for a byte of text in the slices at work: a megabyte for each core, or one longer row.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

Array: TypeAlias = npt.NDArray[Any]
Hashes: TypeAlias = npt.NDArray[np.uint64]
Places: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Bands: TypeAlias = npt.NDArray[np.uint32]

# Below, a changed word leaves too little to tell a copy from a short answer that many rows share.
MIN_WORDS = 5
# Rows of similarity s share a band with probability 1 - (1 - s^8)^26: 99 % at 0.8, all at 0.9, 10 % at 0.5.
NUM_BANDS = 26
PER_BAND = 8
BITS = 4
NUM_MINIMA = NUM_BANDS * PER_BAND
NUM_ANSWER_BITS = 64
# More would hold more text at work than they save time.
MAX_THREADS = 8
SLICE_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Signatures:
    """What is kept of rows: arrays with one entry a row, so those of shards can be put together."""

    rows: Places  # numbers in the data set, from 0
    exact: Hashes  # the whole text; 0 where a row has none
    prompts: Hashes  # 0 where a row has none
    answers: Hashes  # 0 where a row has none
    bands: Bands  # (n, NUM_BANDS), each eight minima of four bits; 0 where a row is too short
    answer_bits: Hashes  # a bit each of 64 minima of the answer; its hash where it is too short
    shingled: Mask  # whether the row is long enough for near duplicates

    def __len__(self) -> int:
        return len(self.rows)

    def to_arrays(self) -> dict[str, Array]:
        """The arrays by name, for `np.savez`."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Signatures:
        """The signatures that `to_arrays` took apart."""
        return cls(**{each.name: arrays[each.name] for each in fields(cls)})

    def take(self, where: Array) -> Signatures:
        """The rows at these places, in this order."""
        return Signatures.from_arrays({name: array[where] for name, array in self.to_arrays().items()})


def concatenate(parts: Sequence[Signatures]) -> Signatures:
    """The signatures of several parts as one; none at all for no parts."""
    if not parts:
        return sign(np.empty(0, np.int64), pl.Series([], dtype=pl.String), pl.Series([], dtype=pl.String))
    arrays = [part.to_arrays() for part in parts]
    whole = {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}
    return Signatures.from_arrays(whole)


def num_threads() -> int:
    """How many threads to work with."""
    return min(MAX_THREADS, os.cpu_count() or 1)


def sign(rows: Array, prompts: pl.Series, answers: pl.Series, rest: Hashes | None = None) -> Signatures:
    """The signatures of rows with these numbers; a null is no text. The whole text is prompt, then answer.

    `rest` is a hash of whatever else rows have to have in common to be the same.
    """
    signed = _sign_text(rows, prompts, answers)
    if rest is None:
        return signed
    exact = np.where(signed.exact == 0, signed.exact, np.maximum(_mixed(signed.exact ^ rest), np.uint64(1)))
    return replace(signed, exact=exact)


def _sign_text(rows: Array, prompts: pl.Series, answers: pl.Series) -> Signatures:
    prompts = prompts.cast(pl.String).fill_null("")
    answers = answers.cast(pl.String).fill_null("")
    size = (prompts.str.len_bytes() + answers.str.len_bytes()).to_numpy().astype(np.int64)
    cuts = np.flatnonzero(np.diff(np.cumsum(size) // SLICE_BYTES)) + 1
    bounds = [0, *cuts.tolist(), len(rows)]
    slices = list(itertools.pairwise(bounds))

    def part(bound: tuple[int, int]) -> Signatures:
        chosen = slice(*bound)
        return _sign_slice(np.asarray(rows[chosen], np.int64), prompts[chosen], answers[chosen])

    if len(slices) == 1:
        return part(slices[0])
    with ThreadPoolExecutor(num_threads()) as pool:
        return concatenate(list(pool.map(part, slices)))


def _sign_slice(rows: Places, prompts: pl.Series, answers: pl.Series) -> Signatures:
    prompts, answers = _folded(prompts), _folded(answers)
    # One buffer for all rows: "\n" prompt "\n" answer, so that every word has a blank before it.
    lines = pl.select(pl.concat_str(pl.lit("\n"), prompts, pl.lit("\n"), answers)).to_series()
    _, offsets, text = lines.to_arrow().buffers()
    data = np.frombuffer(text or b"", np.uint8)
    begin = np.frombuffer(offsets, np.int64)[: len(rows)]
    starts = _word_starts(data)
    words = _word_hashes(data, starts)
    first = np.searchsorted(starts, begin)
    answer = np.searchsorted(starts, begin + 1 + prompts.str.len_bytes().to_numpy())
    last = np.append(first[1:], len(starts))[: len(rows)]
    shingled, answered = last - first >= MIN_WORDS, last - answer >= MIN_WORDS
    bands = np.zeros((len(rows), NUM_BANDS), np.uint32)
    bands[shingled] = _bands(words, first[shingled], last[shingled])
    pieces = ((first, last), (first, answer), (answer, last))
    exact, of_prompt, of_answer = (_runs(words, *ends) for ends in pieces)
    answer_bits = np.copy(of_answer)
    answer_bits[answered] = _answer_bits(words, answer[answered], last[answered])
    return Signatures(rows, exact, of_prompt, of_answer, bands, answer_bits, shingled)


def _folded(texts: pl.Series) -> pl.Series:
    # ASCII letters and blanks are left: they are folded as bytes, and most rows have nothing else to fold.
    odd = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    if odd.is_empty():
        return texts
    # NFKC makes plain spaces of all other blanks but these four.
    plain = texts.gather(odd).str.normalize("NFKC").str.to_lowercase()
    plain = plain.str.replace_all("[\u0085\u1680\u2028\u2029]", " ")
    source = np.arange(len(texts))
    source[odd.to_numpy()] = len(texts) + np.arange(len(odd))
    return pl.concat([texts, plain]).gather(source)


def _word_starts(data: npt.NDArray[np.uint8]) -> Places:
    # Where words begin: after a blank, and at each character of a script without blanks between its words.
    blank = data <= 0x20  # control characters too
    begins = np.zeros(len(data), np.bool_)
    np.greater(blank[:-1], blank[1:], out=begins[1:])
    lead = np.flatnonzero(data >= 0xE0)  # the first bytes of characters of three and four bytes
    if lead.size:
        four = data[lead] >= 0xF0
        high, low = data[lead].astype(np.int64), (data[lead + 1] & 0x3F).astype(np.int64)
        block = np.where(four, (high & 7) << 12 | low << 6, (high & 15) << 6 | low)  # of 64 code points
        alone = _SPACELESS[block]
        where, after = lead[alone], (lead + 3 + four)[alone]
        begins[where] = True
        after = after[after < len(data)]
        begins[after] = ~blank[after]
    return np.flatnonzero(begins)


def _word_hashes(data: npt.NDArray[np.uint8], starts: Places) -> Hashes:
    # A polynomial over the bytes of each word. Blanks are zero: it makes no difference how many follow.
    if not len(starts):
        return np.empty(0, np.uint64)
    powers, inverses = _powers(len(data))
    letters = data + np.uint8(32) * (data - np.uint8(65) < 26)  # A to Z as a to z
    letters *= data > 0x20
    sums = np.cumsum(letters * powers[: len(data)])
    ends = np.append(starts[1:], len(data)) - 1
    return _mixed((sums[ends] - sums[starts - 1]) * inverses[starts])


def _runs(words: Hashes, first: Places, last: Places) -> Hashes:
    # A hash of the words of each run [first, last): the same polynomial, over words. 0 for an empty run.
    powers, inverses = _powers(len(words) + 1)
    before = np.zeros(len(words) + 1, np.uint64)
    before[1:] = np.cumsum(words * powers[: len(words)])
    hashes = _mixed((before[last] - before[first]) * inverses[first])
    return np.where(last > first, np.maximum(hashes, np.uint64(1)), np.uint64(0))


def _bands(words: Hashes, first: Places, last: Places) -> Bands:
    minima = _minima(words, first, last, NUM_MINIMA)
    minima >>= np.uint32(32 - BITS)
    minima <<= np.tile(np.arange(0, 32, BITS, dtype=np.uint32), NUM_BANDS)[:, None]
    bands: Bands = np.bitwise_or.reduce(minima.reshape(NUM_BANDS, PER_BAND, len(first)), axis=1)
    return bands.T


def _answer_bits(words: Hashes, first: Places, last: Places) -> Hashes:
    bits = _minima(words, first, last, NUM_ANSWER_BITS).astype(np.uint64) >> np.uint64(31)
    packed: Hashes = np.bitwise_or.reduce(bits << np.arange(64, dtype=np.uint64)[:, None], axis=0)
    return packed


def _minima(words: Hashes, first: Places, last: Places, count: int) -> Bands:
    # (count, n): of the shingles of each run [first, last), the least under each of so many permutations.
    minima = np.empty((count, len(first)), np.uint32)
    if not len(first):
        return minima
    # A shingle begins at each word but the last two of a run: those would go on into the next run.
    edges = np.zeros(len(words), np.int8)
    edges[first], edges[last - 2] = 1, -1
    inside = np.cumsum(edges, dtype=np.int8).view(np.bool_)[:-2]
    halves = (words >> np.uint64(32)).astype(np.uint32)
    shingles = (halves[:-2] * _C + halves[1:-1] * _D + halves[2:])[inside]
    counts = last - first - 2
    begin = np.cumsum(counts) - counts
    permuted = np.empty_like(shingles)
    for number, factor in enumerate(_FACTORS[:count]):
        np.multiply(shingles, factor, out=permuted)  # an odd factor permutes the 32-bit numbers
        minima[number] = np.minimum.reduceat(permuted, begin)  # with `out` it would stop the other threads
    # A minimum is a small number: one more factor spreads it, so that its highest bits tell it from others.
    minima *= _SPREAD
    return minima


def _mixed(numbers: Hashes) -> Hashes:
    # The finaliser of SplitMix64: every bit of the number changes every bit of the result.
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _powers(count: int) -> tuple[Hashes, Hashes]:
    # Kept for the usual slice; the tables of one gigantic row are not worth their memory.
    return _powers_up_to(2 * SLICE_BYTES) if count <= 2 * SLICE_BYTES else _powers_up_to.__wrapped__(count)


@lru_cache(maxsize=1)
def _powers_up_to(size: int) -> tuple[Hashes, Hashes]:
    def of(base: int) -> Hashes:
        factors = np.full(size, np.uint64(base))
        factors[0] = 1
        return np.multiply.accumulate(factors)

    base = int(_B)
    return of(base), of(pow(base, -1, 1 << 64))


def _spaceless() -> Mask:
    # Thai and Lao, Burmese, Khmer, Chinese and Japanese, Chinese beyond 16 bits: by code point / 64.
    ranges = [(0xE00, 0xF00), (0x1000, 0x1080), (0x1780, 0x1800), (0x3000, 0xA000), (0xF900, 0xFB00)]
    table = np.zeros(0x110000 >> 6, np.bool_)
    for start, stop in [*ranges, (0x20000, 0x40000)]:
        table[start >> 6 : stop >> 6] = True
    return table


# Odd numbers without a pattern in their bits.
_A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_C, _D, _SPREAD = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77), np.uint32(0x85EBCA6B)
# Not NumPy's random numbers: those may change between versions, and signatures may be kept.
_RANDOM = _mixed(np.arange(1, NUM_MINIMA + 1, dtype=np.uint64) * _A)
_FACTORS = (_RANDOM >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
_SPACELESS = _spaceless()
