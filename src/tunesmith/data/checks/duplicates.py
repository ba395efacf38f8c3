"""Rows beside each other: the same, nearly the same, leaked to the evaluation data, or contradictory.

All of it comes from the rows' signatures alone, so that those of shards can be put together.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tunesmith.data.checks.signatures import (
    BITS,
    NUM_ANSWER_BITS,
    NUM_BANDS,
    NUM_MINIMA,
    Array,
    Bands,
    Hashes,
    Places,
    Signatures,
    num_threads,
)
from tunesmith.data.findings import Finding

# One word changed in 33, or two in 66. The aim is 0.8, the rest is for the error of the estimate: rows of one
# template are each compared with dozens of others, and at 0.8 one in five found one of 0.72 that seemed near.
NEAR = 0.82
# Answers that differ wholly seem less alike in 999 of 1000 cases; one word changed amid twelve leaves 0.54.
ANSWERS_ALIKE = 0.4
# Minima that differ have the same four bits by chance.
CHANCE = 1 / (1 << BITS)
# Each row is compared with so many of the first rows that share a band, and with the last one before it. All
# pairs would be quadratic where one template made thousands of rows.
FIRST_MEMBERS = 2
PAIRS_AT_ONCE = 1 << 16


def duplicate_findings(signatures: Signatures, *, near: bool = True) -> Iterator[Finding]:
    """D301, D302 (unless not `near`) and D305 of a data set; each names the earliest row that it is about."""
    whole = _by_row(signatures)
    first = _earliest(whole.exact)
    again = first < np.arange(len(whole))
    exact = _found("D301", whole.rows[again], "is the same as row {}", whole.rows[first[again]])
    once = whole.take(whole.shingled & ~again if near else np.zeros(len(whole), np.bool_))
    alike = _near("D302", once, once, "is {} % the same as row {}", within=True)
    yield from heapq.merge(exact, alike, _contradictory(whole.take(~again)), key=_place)


def leakage_findings(train: Signatures, evaluation: Signatures) -> Iterator[Finding]:
    """D303 and D304, by row of the evaluation data; each names the earliest row of the training data."""
    train, evaluation = _by_row(train), _by_row(evaluation)
    first = _earliest(np.concatenate([train.exact, evaluation.exact]))
    of_train, of_evaluation = first[: len(train)], first[len(train) :]
    leaked = of_evaluation < len(train)
    message = "is the same as row {} of the training data"
    exact = _found("D303", evaluation.rows[leaked], message, train.rows[of_evaluation[leaked]])
    once = train.take(train.shingled & (of_train == np.arange(len(train))))
    rest = evaluation.take(evaluation.shingled & ~leaked)
    near = _near("D304", rest, once, "is {} % the same as row {} of the training data", within=False)
    yield from heapq.merge(exact, near, key=_place)


class Copies(NamedTuple):
    """So many rows are in an earlier data set too; the first of them, and what it is a copy of."""

    number: int
    source: int
    row: int
    first_source: int
    first_row: int


def copies_across(parts: Sequence[Sequence[Signatures]]) -> Copies | None:
    """Rows of several data sets that stand in an earlier one too, each counted once; None without any."""
    exact = [np.concatenate([each.exact for each in part]) for part in parts if part]
    rows = [np.concatenate([each.rows for each in part]) for part in parts if part]
    numbers = [number for number, part in enumerate(parts) if part]
    if len(exact) < 2:
        return None
    source = np.repeat(numbers, [len(each) for each in exact])
    row, first = np.concatenate(rows), _earliest(np.concatenate(exact))
    found = np.flatnonzero(source[first] < source)
    if not found.size:
        return None
    # A row that its own data set holds twice is no second copy of the earlier one.
    number = len(np.unique(np.stack([source[found], first[found]]), axis=1).T)
    one, other = found[0], first[found[0]]
    return Copies(number, int(source[one]), int(row[one]), int(source[other]), int(row[other]))


def _contradictory(once: Signatures) -> Iterator[Finding]:
    asked = once.take((once.prompts != 0) & (once.answers != 0))
    first = _earliest(asked.prompts)
    other = asked.answers != asked.answers[first]
    message = "has the prompt of row {} and another answer"
    return _found("D305", asked.rows[other], message, asked.rows[first[other]])


def _near(code: str, own: Signatures, others: Signatures, message: str, *, within: bool) -> Iterator[Finding]:
    partner, percent = _partners(own, others, within=within)
    found = np.flatnonzero(partner < len(others))
    return _found(code, own.rows[found], message, percent[found], others.rows[partner[found]])


def _found(code: str, rows: Array, message: str, *values: Array) -> Iterator[Finding]:
    # The arrays become numbers a block at a time: there may be a finding for every row.
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        block = (each[start : start + PAIRS_AT_ONCE].tolist() for each in (rows, *values))
        for row, *named in zip(*block, strict=True):
            yield Finding(code, row, None, message.format(*named))


def _place(finding: Finding) -> tuple[int, str]:
    return -1 if finding.row is None else finding.row, finding.code


def _by_row(signatures: Signatures) -> Signatures:
    if np.all(signatures.rows[:-1] <= signatures.rows[1:]):
        return signatures
    return signatures.take(np.argsort(signatures.rows, kind="stable"))


def _earliest(hashes: Hashes) -> Places:
    # For each place the first one with the same hash; a row without text is like no other.
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    new = ordered == 0
    new[:1] = True
    new[1:] |= ordered[1:] != ordered[:-1]
    first = np.empty(len(hashes), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(new, np.arange(len(hashes)), 0))]
    return first


def _partners(own: Signatures, others: Signatures, *, within: bool) -> tuple[Places, Places]:
    # For each row of `own` the earliest row of `others` that is near, and the similarity in percent; the
    # number of `others` where there is none. `within`: both are the same rows, and a partner comes earlier.
    shares = [range(first, NUM_BANDS, num_threads()) for first in range(num_threads())]
    with ThreadPoolExecutor(num_threads()) as pool:
        found = list(pool.map(lambda bands: _partners_by(bands, own, others, within=within), shares))
    partner, percent = found[0]
    for other, its_percent in found[1:]:
        percent = np.where(other < partner, its_percent, percent)
        partner = np.minimum(partner, other)
    return partner, percent


def _partners_by(
    bands: Sequence[int], own: Signatures, others: Signatures, *, within: bool
) -> tuple[Places, Places]:
    # As `_partners`, of rows that share one of these bands.
    partner, percent = np.full(len(own), len(others)), np.zeros(len(own), np.int64)
    for band in bands:
        able = np.arange(len(others)) if within else _sharing(own.bands[:, band], others.bands[:, band])
        key, order = _ordered(others.bands[able, band])
        order = able[order]
        asked, place = (key, order) if within else _ordered(own.bands[:, band])
        low = np.searchsorted(key, asked, side="left")
        high = np.arange(len(own)) if within else np.searchsorted(key, asked, side="right")
        for member in [*(low + step for step in range(FIRST_MEMBERS)), high - 1]:
            inside = (low <= member) & (member < high)
            left, right = place[inside], order[member[inside]]
            useful = right < partner[left]  # no earlier one is known
            left, right, similarity = _near_pairs(own, others, left[useful], right[useful])
            partner[left] = right
            # Rows that are not exact duplicates are not wholly the same, whatever the estimate says.
            percent[left] = np.minimum(np.rint(similarity * 100), 99)
    return partner, percent


def _sharing(few: Bands, many: Bands) -> Places:
    # The places of `many` that may stand in `few`, by their last 20 bits: cheaper than to sort all of them.
    last_bits = np.uint32((1 << 20) - 1)
    there = np.zeros(1 << 20, np.bool_)
    there[few & last_bits] = True
    return np.flatnonzero(there[many & last_bits])


def _ordered(band: Bands) -> tuple[Bands, Places]:
    # Sorted by value, then row: one number of both, because NumPy sorts those several times faster.
    both = (band.astype(np.uint64) << np.uint64(32)) | np.arange(len(band), dtype=np.uint64)
    both.sort()
    return (both >> np.uint64(32)).astype(np.uint32), (both & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _near_pairs(
    own: Signatures, others: Signatures, left: Places, right: Places
) -> tuple[Places, Places, npt.NDArray[np.float64]]:
    # The pairs that are near, out of rows `left` of `own` with rows `right` of `others`; and how near.
    differ = np.bitwise_count(own.answer_bits[left] ^ others.answer_bits[right])
    alike = 1 - differ / (NUM_ANSWER_BITS / 2) >= ANSWERS_ALIKE  # by chance, half of the bits agree
    left, right = left[alike], right[alike]
    similarity = np.empty(len(left))
    for start in range(0, len(left), PAIRS_AT_ONCE):
        chosen = slice(start, start + PAIRS_AT_ONCE)
        similarity[chosen] = similarities(own.bands[left[chosen]], others.bands[right[chosen]])
    near = similarity >= NEAR
    return left[near], right[near], similarity[near]


def similarities(bands: Bands, others: Bands) -> npt.NDArray[np.float64]:
    """The estimated Jaccard similarity of each row of `bands` to the same row of `others`."""
    differ: Bands = bands ^ others
    # Four bits that differ anywhere are counted once, by the lowest of them.
    differ |= differ >> np.uint32(2)
    differ |= differ >> np.uint32(1)
    agree = 1 - np.bitwise_count(differ & np.uint32(0x11111111)).sum(axis=1, dtype=np.int64) / NUM_MINIMA
    similarity: npt.NDArray[np.float64] = (agree - CHANCE) / (1 - CHANCE)
    return similarity
