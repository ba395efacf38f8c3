"""Whether an export answers like the model that was trained, checked at the stage where it may go wrong.

The stages are adapter to merged, merged to the first GGUF, and that one to each smaller copy; a GGUF file is
read by llama.cpp itself, in a process of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.export.asking import ask_llama_cpp, differing
from tunesmith.export.divergence import Compared
from tunesmith.export.reference import Reference, compare_folder
from tunesmith.export.tensor_check import tensors_not_converted
from tunesmith.export.thresholds import MERGED, Limit, limit_of

# Texts on which tokenizers differ: spaces, numbers, other scripts, emoji, code, what reads like markup.
TEXTS = (
    "Hello, world!", " leading and trailing ", "two  spaces\tand a tab", "line\n\nbreaks\r\n", "12345 3.14",
    "don't, I'll, you've, SHOUTING'S", "naïve café über straße", "Привет, мир", "你好，世界", "こんにちは",
    "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "👩‍👩‍👧‍👦 family 🇩🇪",
    "def f(x):\n    return x ** 2  # power\n",
    '{"key": [1, 2, {"nested": null}]}', "<b>bold</b> & more", "C:\\path\\to\\file", "a" * 40, "…—“quotes”",
)  # fmt: skip
# Files may differ from the trained model in whether an answer ends, in so many of a hundred.
_MAX_ENDING_LOSS = 0.25


@dataclass
class Verified:
    """What was found of one file: figures by name, and a sentence for each that is out of bounds."""

    checks: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is out of bounds."""
        return not self.failures

    def expect(self, holds: bool, failure: str) -> None:
        """Keep the sentence where a condition doesn't hold."""
        if not holds:
            self.failures.append(failure)


def verify_merged(folder: Path, dtype: str, reference: Reference) -> Verified:
    """A merged folder against base and adapter as they were trained."""
    verified = Verified()
    _distributions(verified, compare_folder(folder, reference), MERGED[dtype], "adapter to merged")
    return verified


def verify_gguf(
    path: Path,
    kind: str,
    reference: Reference,
    tokenizer: Any,
    *,
    made_from: Path,
    stage: str,
    threads: int,
    imatrix: Path | None = None,
) -> Verified:
    """A GGUF file against the trained model, its tokenizer, and the folder or file that it is made from."""
    from tunesmith.export.template_check import check_template

    verified = Verified()
    reply = measured(path, reference, threads)
    if "error" in reply:
        verified.expect(False, f"{stage}: {reply['error']}")
        return verified
    _tensors(verified, path, made_from, stage, imatrix)
    _tokenizer(verified, reply, reference, tokenizer, stage)
    _distributions(verified, Compared(**reply["compared"]), limit_of(kind), stage)
    _answers(verified, reply, reference, tokenizer, stage)
    check_template(verified, path, reply, tokenizer, stage)
    return verified


def verify_gguf_lora(
    adapter: Path, base: Path, reference: Reference, tokenizer: Any, *, threads: int
) -> Verified:
    """An adapter as a GGUF file, applied to its base in F16, against the trained model."""
    verified, stage = Verified(), "adapter to GGUF"
    reply = measured(base, reference, threads, adapter)
    if "error" in reply:
        verified.expect(False, f"{stage}: {reply['error']}")
        return verified
    _distributions(verified, Compared(**reply["compared"]), limit_of("F16"), stage)
    _answers(verified, reply, reference, tokenizer, stage)
    return verified


def measured(path: Path, reference: Reference, threads: int, adapter: Path | None = None) -> dict[str, Any]:
    """What llama.cpp says of a file, maybe with an adapter applied to it, or `error`."""
    samples = reference.samples
    return ask_llama_cpp(
        {
            "do": "measure",
            "model": str(path),
            "adapter": adapter and str(adapter),
            "threads": threads,
            "texts": [*TEXTS, *samples.texts],
            "rows": [row.as_dict() for row in samples.rows],
            "reference": str(reference.path),
            "num_tokens": reference.num_tokens,
            "prompts": samples.prompts,
            "max_new_tokens": max((len(each) for each in reference.answers), default=1) + 1,
            "end_tokens": reference.end_tokens,
        }
    )


def _tensors(verified: Verified, path: Path, made_from: Path, stage: str, imatrix: Path | None) -> None:
    if made_from.is_dir():
        found: dict[str, Any] = {"tensors": tensors_not_converted(made_from, path)}
    else:
        found = differing(made_from, path, imatrix)
    verified.expect("error" not in found, f"{stage}: {found.get('error')}")
    names = found.get("tensors") or []
    verified.checks["tensors_that_differ"] = len(names)
    verified.expect(not names, f"{stage}: {len(names)} tensors hold other numbers, {', '.join(names[:3])}")


def _tokenizer(
    verified: Verified, reply: dict[str, Any], reference: Reference, tokenizer: Any, stage: str
) -> None:
    texts = [*TEXTS, *reference.samples.texts]
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    differing = [text for text, own, found in zip(texts, expected, reply["ids"], strict=True) if own != found]
    verified.checks["texts_tokenised_alike"] = f"{len(texts) - len(differing)}/{len(texts)}"
    verified.expect(
        not differing,
        f"{stage}: {len(differing)} of {len(texts)} texts get other token ids, {differing[:1]!r}",
    )
    verified.expect(
        reply["vocab_size"] == reference.num_tokens,
        f"{stage}: the file has {reply['vocab_size']:,} tokens, the model {reference.num_tokens:,}",
    )
    special = reply["special_tokens"]
    for name in ("bos", "eos"):
        own = getattr(tokenizer, f"{name}_token_id")
        verified.expect(
            own is None or special[name] == own, f"{stage}: {name} is token {special[name]}, and was {own}"
        )
    missing = sorted(set(reference.end_tokens) - set(reply["ends"]))
    verified.expect(not missing, f"{stage}: answers don't end at token {', '.join(map(str, missing))}")


def _distributions(verified: Verified, found: Compared, limit: Limit, stage: str) -> None:
    divergence, agreement = found.mean_divergence, found.top1_agreement
    verified.checks |= {
        "num_positions": found.num_positions,
        "mean_divergence": divergence,
        "top1_agreement": agreement,
        "perplexity": found.perplexity,
        "trained_perplexity": found.reference_perplexity,
    }
    verified.expect(
        divergence <= limit.divergence,
        f"{stage}: next tokens diverge by {divergence:.2g} nats, and {limit.divergence:.2g} is the limit",
    )
    verified.expect(
        agreement >= limit.agreement,
        f"{stage}: the likeliest token is the same at {agreement:.1%} of {found.num_positions:,} positions, "
        f"and {limit.agreement:.1%} is the limit",
    )


def _answers(
    verified: Verified, reply: dict[str, Any], reference: Reference, tokenizer: Any, stage: str
) -> None:
    pairs = list(zip(reference.answers, reply["answers"], strict=True))
    if not pairs:
        return
    ends = set(reference.end_tokens)
    ended, trained_ended = (
        float(np.mean([bool(ends & set(pair[which])) for pair in pairs])) for which in (1, 0)
    )
    texts = [[tokenizer.decode(each, skip_special_tokens=True) for each in pair] for pair in pairs]
    verified.checks |= {
        "num_answers": len(pairs),
        "same_answers": sum(own == found for own, found in texts),
        "answers_that_end": ended,
        "trained_answers_that_end": trained_ended,
        "answers": [{"trained": own, "export": found} for own, found in texts],
    }
    verified.expect(
        ended >= trained_ended - _MAX_ENDING_LOSS,
        f"{stage}: {ended:.0%} of the answers end, and {trained_ended:.0%} of the trained model's",
    )
