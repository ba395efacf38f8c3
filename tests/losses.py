"""The losses as the papers write them, in plain PyTorch: a row at a time, no padding, nothing of TRL.

A comment names paper and equation, and says where TRL computes another thing than the paper has. At the end
stands what is held against them: a trainer as a run builds it, and an optimizer step of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.config.loading import load_config
from tunesmith.config.methods import METHODS
from tunesmith.runs.folder import RunFolder
from tunesmith.train import training
from tunesmith.train.guards import FiniteGuard
from tunesmith.train.relayout import trained_model
from tunesmith.train.setup import load_base, set_up

RELATIVE, ABSOLUTE = 1e-4, 1e-5
LORA = {"lora_r": 4, "lora_alpha": 12}
NUM_GENERATIONS, MAX_COMPLETION_LENGTH = 4, 6
DATA = {"conversation": "chats", "preference": "pairs", "unpaired": "labelled", "prompts": "prompts"}


class Row(NamedTuple):
    """A text in tokens, and which of them are learned."""

    ids: list[int]
    learned: list[bool]

    @property
    def prompt(self) -> list[int]:
        return [token for token, learned in zip(self.ids, self.learned, strict=True) if not learned]

    @property
    def answer(self) -> list[int]:
        return [token for token, learned in zip(self.ids, self.learned, strict=True) if learned]


def prompt_and_answer(prompt: list[int], answer: list[int]) -> Row:
    return Row(prompt + answer, [False] * len(prompt) + [True] * len(answer))


def unpadded(ids: Tensor, mask: Tensor, learned: Tensor) -> list[Row]:
    """The rows of a padded batch; all three are (rows, tokens)."""
    return [
        Row(row[seen.bool()].tolist(), [bool(each) for each in marks[seen.bool()].tolist()])
        for row, seen, marks in zip(ids, mask, learned, strict=True)
    ]


class PlainModel:
    """A model of transformers, with the weights of another, adapters included, in place of its own.

    `leaves` are these weights by the other's names: copies, whose gradients can be asked for.
    """

    def __init__(self, model: Any, weights: dict[str, Tensor] | None = None, lora_scale: float = 0.0) -> None:
        self.leaves = {
            name: weight.detach().clone().requires_grad_() for name, weight in (weights or {}).items()
        }
        self._model = model.eval().requires_grad_(False)
        self._weights = merged(self.leaves, lora_scale)

    def logits(self, ids: list[int]) -> Tensor:
        """(tokens, vocabulary) of a language model; (1,) of a reward model."""
        inputs = {"input_ids": torch.tensor([ids])}
        return torch.func.functional_call(self._model, self._weights, kwargs=inputs).logits[0]

    def distributions(self, row: Row) -> Tensor:
        """(learned tokens, vocabulary): the log-probabilities at the places of the learned tokens."""
        return torch.log_softmax(self.logits(row.ids)[:-1], dim=-1)[torch.tensor(row.learned[1:])]

    def log_probs(self, row: Row) -> Tensor:
        """(learned tokens,): their log-probabilities."""
        learned = torch.tensor(row.ids[1:])[torch.tensor(row.learned[1:])]
        return self.distributions(row).gather(1, learned[:, None])[:, 0]


def merged(weights: dict[str, Tensor], lora_scale: float) -> dict[str, Tensor]:
    """The weights of a plain model from those of peft's."""
    short = {name.removeprefix("base_model.model."): weight for name, weight in weights.items()}
    plain = {
        name.replace(".base_layer", "").replace(".modules_to_save.default", ""): weight
        for name, weight in short.items()
        if ".lora_" not in name and ".original_module" not in name
    }
    for name in short:
        module, is_b, _ = name.partition(".lora_B.")
        if is_b:
            # LoRA, arXiv 2106.09685, eq. 3 and section 4.1: W + (alpha / r) B A.
            update = short[name] @ short[name.replace("lora_B", "lora_A")]
            plain[f"{module}.weight"] = plain[f"{module}.weight"] + lora_scale * update
    return plain


def mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def likelihood(log_probs: Sequence[Tensor]) -> Tensor:
    """Mean over the tokens of all rows, not over rows of each row's mean."""
    return -torch.cat(list(log_probs)).mean()


class Pair(NamedTuple):
    """(tokens,) log-probabilities of a pair's answers, of the policy and the reference."""

    good: Tensor
    bad: Tensor
    ref_good: Tensor
    ref_bad: Tensor

    @property
    def ratios(self) -> tuple[Tensor, Tensor]:
        """log pi(y|x) / pi_ref(y|x) of the chosen and of the rejected answer."""
        return self.good.sum() - self.ref_good.sum(), self.bad.sum() - self.ref_bad.sum()


def dpo(pair: Pair, beta: float) -> Tensor:
    # DPO, arXiv 2305.18290, eq. 7.
    good, bad = pair.ratios
    return -logsigmoid(beta * (good - bad))


def ipo(pair: Pair, beta: float) -> Tensor:
    # IPO, arXiv 2310.12036, eq. 17, with tau = beta. TRL divides each answer's log-ratio by its length first,
    # which the paper does not write (TRL: confirmed by its authors).
    good, bad = pair.ratios
    return (good / len(pair.good) - bad / len(pair.bad) - 1 / (2 * beta)) ** 2


def hinge(pair: Pair, beta: float) -> Tensor:
    # SLiC's hinge on DPO's implicit reward: RSO, arXiv 2309.06657, hinge-norm, with gamma = beta.
    good, bad = pair.ratios
    return (1 - beta * (good - bad)).clamp(min=0)


def robust(pair: Pair, beta: float, flipped: float = 0.1) -> Tensor:
    # Robust DPO, arXiv 2403.00409, section 3: the loss that label flips of this rate leave unbiased.
    good, bad = pair.ratios
    right, wrong = -logsigmoid(beta * (good - bad)), -logsigmoid(beta * (bad - good))
    return ((1 - flipped) * right - flipped * wrong) / (1 - 2 * flipped)


def apo_zero(pair: Pair, beta: float) -> Tensor:
    # APO, arXiv 2408.06266, eq. 7: -sigma(good) + sigma(bad). TRL adds 1, which moves no weight.
    good, bad = pair.ratios
    return 1 - torch.sigmoid(beta * good) + torch.sigmoid(beta * bad)


def sppo_hard(pair: Pair, beta: float) -> Tensor:
    # SPPO, arXiv 2405.00675, eq. 4.7, with eta = 1 / beta and P = 1 for the winner, 0 for the loser, where
    # the paper has estimated probabilities.
    good, bad = pair.ratios
    return (good - 1 / beta * (1 - 0.5)) ** 2 + (bad - 1 / beta * (0 - 0.5)) ** 2


def nca_pair(pair: Pair, beta: float) -> Tensor:
    # NCA, arXiv 2402.05369, its loss for two answers of which only the chosen one has a reward.
    good, bad = pair.ratios
    return -logsigmoid(beta * good) - 0.5 * (logsigmoid(-beta * good) + logsigmoid(-beta * bad))


def kto(rows: Sequence[tuple[Tensor, Tensor, bool]], drift: Sequence[Tensor], beta: float) -> Tensor:
    """`rows`: log-probabilities of policy and reference, label; `drift`: log-ratios of unrelated answers."""
    # KTO, arXiv 2402.01306, eq. 8: lambda_y - v(x, y), with both lambdas 1; z0 of section 4.1 is the mean
    # log-ratio of the batch's answers, each after another row's prompt, and never negative.
    zero = mean(drift).clamp(min=0).detach()
    losses = [
        1 - torch.sigmoid((1 if label else -1) * beta * (policy.sum() - reference.sum() - zero))
        for policy, reference, label in rows
    ]
    return mean(losses)


def odds_ratio(good: Tensor, bad: Tensor) -> Tensor:
    # ORPO, arXiv 2403.07691, eq. 3, 4 and 7; log P(y|x) is the mean over the tokens.
    chances = good.mean().exp(), bad.mean().exp()
    odds = [chance / (1 - chance) for chance in chances]
    return -torch.log(torch.sigmoid(torch.log(odds[0] / odds[1])))


def orpo(pairs: Sequence[tuple[Tensor, Tensor]], chosen_texts: Sequence[Tensor], weight: float) -> Tensor:
    """`chosen_texts`: log-probabilities of all tokens, the prompts' too."""
    # ORPO, eq. 6. The paper's L_SFT is of the answer given the prompt; TRL, as the paper's own code, learns
    # the prompt too.
    return likelihood(chosen_texts) + weight * mean([odds_ratio(*pair) for pair in pairs])


def cpo(pairs: Sequence[tuple[Tensor, Tensor]], beta: float) -> Tensor:
    # CPO, arXiv 2401.08417, eq. 3. Its likelihood is a sum over the answer; TRL's is the mean over the tokens
    # of all answers (a length later, and short answers weigh less than long ones).
    prefer = [-logsigmoid(beta * (good.sum() - bad.sum())) for good, bad in pairs]
    return mean(prefer) + likelihood([good for good, _ in pairs])


def simpo(pairs: Sequence[tuple[Tensor, Tensor]], beta: float, gamma: float) -> Tensor:
    # SimPO, arXiv 2405.14734, eq. 6.
    losses = [-logsigmoid(beta * good.mean() - beta * bad.mean() - gamma) for good, bad in pairs]
    return mean(losses)


def bradley_terry(scores: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    # InstructGPT, arXiv 2203.02155, eq. 1, with two answers to a prompt.
    return mean([-logsigmoid(good - bad) for good, bad in scores])


class Answer(NamedTuple):
    """(tokens,) log-probabilities of an answer: of the policy, of the one that gave it, of the reference."""

    new: Tensor
    old: Tensor
    ref: Tensor
    advantage: float


def surrogate(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    # PPO, arXiv 1707.06347, eq. 7.
    return torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def grpo(
    answers: Sequence[Answer], low: float, high: float, beta: float, *, weighted_kl: bool = False
) -> Tensor:
    # GRPO, arXiv 2402.03300, eq. 3, and eq. 4 for the KL term: the mean over answers of each answer's mean.
    # TRL's default weighs the KL term by the ratio, as DeepSeek-V3.2, arXiv 2512.02556, does: an unbiased
    # gradient of the reverse KL, where the paper's is biased.
    losses = []
    for new, old, ref, advantage in answers:
        kl = (ref - new).exp() - (ref - new) - 1
        kl = kl * (new - old).exp() if weighted_kl else kl
        losses.append(-(surrogate((new - old).exp(), advantage, low, high) - beta * kl).mean())
    return mean(losses)


def token_level(answers: Sequence[Answer], low: float, high: float, num_tokens: float) -> Tensor:
    # DAPO, arXiv 2503.14476, eq. 8: the sum over all tokens, divided by their number. The paper divides a
    # group's sum by the group's tokens; TRL the sum of the step by the tokens of a mean step (those of all
    # answers generated at once, divided by the number of steps made from them).
    sums = [surrogate((new - old).exp(), advantage, low, high).sum() for new, old, _, advantage in answers]
    return -torch.stack(sums).sum() / num_tokens


def dr_grpo(answers: Sequence[Answer], low: float, high: float, max_tokens: int) -> Tensor:
    # Dr. GRPO, arXiv 2503.20783, section 3.2: no division by the answer's length; the constant in its place
    # is the longest answer's (its appendix A).
    return token_level(answers, low, high, num_tokens=len(answers) * max_tokens)


def gspo(answers: Sequence[Answer], low: float, high: float) -> Tensor:
    # GSPO, arXiv 2507.18071, eq. 5 and 7: a ratio an answer, of mean log-probabilities.
    terms = [surrogate((new - old).mean().exp(), advantage, low, high) for new, old, _, advantage in answers]
    return -mean(terms)


def rloo(answers: Sequence[Answer], low: float, high: float) -> Tensor:
    # RLOO, arXiv 2402.14740, section 3 (REINFORCE on whole answers, leave-one-out baseline). The paper has no
    # ratio and no clip: TRL's have the same gradient where the answer is the policy's own.
    terms = [
        surrogate((new.sum() - old.sum()).exp(), advantage, low, high) for new, old, _, advantage in answers
    ]
    return -mean(terms)


def group_advantages(rewards: Sequence[float], *, scaled: bool = True) -> list[float]:
    # GRPO, arXiv 2402.03300, section 4.1.2 (GSPO eq. 6, DAPO eq. 9); Dr. GRPO leaves the division out. TRL's
    # deviation is the sample's (n - 1), and it adds 1e-4 to it.
    group = torch.tensor(rewards)
    scale = group.std() + 1e-4 if scaled else 1.0
    return ((group - group.mean()) / scale).tolist()


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    # RLOO, arXiv 2402.14740, section 3: the mean of the group's other answers.
    return [each - (sum(rewards) - each) / (len(rewards) - 1) for each in rewards]


def divergence(teacher: Tensor, student: Tensor, beta: float) -> Tensor:
    """(tokens,) of two (tokens, vocabulary) distributions in logarithms."""

    # GKD, arXiv 2306.13649, section 2: KL, and the generalized JSD with its beta. At beta 0 and 1, where the
    # generalized JSD is 0, TRL takes what its gradient tends to: forward and reverse KL.
    def kl(one: Tensor, other: Tensor) -> Tensor:
        return (one.exp() * (one - other)).sum(-1)

    if beta == 0:
        return kl(teacher, student)
    if beta == 1:
        return kl(student, teacher)
    mixture = torch.log(beta * teacher.exp() + (1 - beta) * student.exp())
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


@dataclass
class Trained:
    """A trainer as a run has it."""

    trainer: Any
    setup: Any
    refused: list[str] = field(default_factory=list)
    num_shared: int = 0

    def count_shared(self) -> None:
        """Count how often the model is given a prompt once for all its answers: only then has it places."""

        def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            given = {key for key, value in kwargs.items() if value is not None}
            self.num_shared += "position_ids" in given and "past_key_values" not in given

        trained_model(self.trainer).base_model.register_forward_pre_hook(count, with_kwargs=True)

    def plain(self, folder: Path | None = None, **weights: Any) -> PlainModel:
        """The model that the run began from, which is the reference; or the one in `folder`."""
        method, where = self.setup.method, folder or self.setup.origin.model
        return PlainModel(method.model_class().from_pretrained(where, **method.model_options()), **weights)

    def policy(self) -> PlainModel:
        """The model as the trainer has it now."""
        scale = LORA["lora_alpha"] / LORA["lora_r"]
        return self.plain(weights=dict(self.trainer.model.named_parameters()), lora_scale=scale)

    def disturb(self, size: float, seed: int = 0) -> None:
        """Move every trained weight; an adapter's B, which is 0 at first, ten times as far, and not its A."""
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.trainer.model.named_parameters():
                if weight.requires_grad and "lora_A" not in name:
                    weight.add_(torch.randn_like(weight), alpha=10 * size if "lora_B" in name else size)

    def raise_likelihood(self, rows: list[Row], size: float) -> None:
        """Move the trained weights so that the policy finds `rows` likelier."""
        policy = self.policy()
        (-likelihood([policy.log_probs(row) for row in rows])).backward()
        with torch.no_grad():
            for name, weight in self.trainer.model.named_parameters():
                if weight.requires_grad:
                    weight.add_(policy.leaves[name].grad, alpha=size)

    def batches(self) -> tuple[list[Any], Any]:
        """The micro-batches of an optimizer step, and the number of their tokens that transformers counts."""
        loader = iter(self.trainer.get_train_dataloader())
        return self.trainer.get_batch_samples(loader, 2, self.trainer.args.device)

    def step(self, batches: list[Any], num_items: Any = None) -> float:
        """The loss of an optimizer step, whose gradients are left in the weights."""
        trainer = self.trainer
        trainer.model.zero_grad()
        trainer.current_gradient_accumulation_steps = len(batches)
        with self.setup.method.while_training(self.setup.choice):
            return sum(float(trainer.training_step(trainer.model, copy(each), num_items)) for each in batches)

    def agrees(self, found: float, expected: Any, policy: PlainModel) -> None:
        """Fail unless the step's loss and gradients are those of `expected`, a function of `policy`."""
        assert found == pytest.approx(float(expected.detach()), rel=RELATIVE, abs=ABSOLUTE)
        expected.backward()
        trained = {n: w for n, w in self.trainer.model.named_parameters() if w.requires_grad}
        largest = max(float(policy.leaves[name].grad.abs().max()) for name in trained)
        assert largest > 1e-4, "gradients of nothing would agree with anything"
        for name, weight in trained.items():
            gradient = policy.leaves[name].grad
            torch.testing.assert_close(weight.grad, gradient, rtol=0, atol=RELATIVE * largest, msg=name)


def build(model: Path, method: str, *settings: str, tuning: str = "full", rows: int = 4) -> Trained:
    """What `tunesmith train METHOD` builds in the folder of method_data, two micro-batches a step."""
    spec = METHODS[method]
    data = "texts" if method == "cpt" else DATA[spec.kind]
    flags: dict[str, Any] = {
        "method": method, "model": str(model), "dataset": f"{data}.jsonl", "tuning": tuning, "max_steps": 3,
        "global_batch_size": rows, "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    if spec.trainer in ("grpo", "rloo"):
        flags |= {"rewards": "rewards.py:short", "num_generations": NUM_GENERATIONS}
    if spec.kind == "prompts":
        flags |= {"max_completion_length": MAX_COMPLETION_LENGTH}
    flags |= LORA if tuning == "lora" else {}
    pinned = [f"trl.per_device_train_batch_size={rows // 2}", "trl.gradient_accumulation_steps=2"]
    config = load_config(flags=flags, assignments=[*pinned, *settings], environ={}).config
    setup = set_up(config, print)
    run = RunFolder.create(Path("run").resolve(), setup.record())
    judge = training._judge(setup, run, print)
    trainer = training._build_trainer(setup, run, print, load_base(setup, print, run), [], judge)
    trainer.finite = FiniteGuard()
    made = Trained(trainer, setup)
    setup.method.speed_up(trainer, setup.choice, made.refused.append)
    made.count_shared()
    return made


def write_other_model(model: Path, folder: Path) -> Path:
    """Return `folder`, holding `model` with other weights: a teacher that knows something else."""
    other = AutoModelForCausalLM.from_pretrained(model)
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    other.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder
