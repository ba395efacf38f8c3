"""Every method's loss and gradients, as our training computes them, are those of its paper (losses.py).

A whole optimizer step of two micro-batches is compared, after the weights were moved away from where they
began. Losses agree to 1e-4 of their size (to 1e-5 where they are near 0), gradients to 1e-4 of the largest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import losses
import pytest
from losses import Answer, Pair, PlainModel, Row, Trained, build, mean, prompt_and_answer, unpadded
from method_data import write_method_data

from tunesmith.config.methods import METHODS


@pytest.fixture(autouse=True)
def _in_a_folder_with_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_method_data(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def teacher(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return losses.write_other_model(tiny_model, tmp_path_factory.mktemp("teacher"))


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("method", ["sft", "cpt"])
def test_sft_and_cpt_are_the_likelihood_of_the_learned_tokens_of_the_step(tiny_model, method, tuning):
    run = build(tiny_model, method, tuning=tuning)
    run.disturb(0.05)
    batches, num_items = run.batches()
    rows = [
        row
        for batch in batches
        for row in unpadded(batch["input_ids"], batch["attention_mask"], batch["labels"] != -100)
    ]
    assert any(not all(row.learned[1:]) for row in rows) == (method == "sft")
    policy = run.policy()
    expected = losses.likelihood([policy.log_probs(row) for row in rows])
    run.agrees(run.step(batches, num_items), expected, policy)


def pairs(run: Trained, batch: dict[str, Any]) -> list[tuple[Row, Row]]:
    """Chosen and rejected rows of a batch, in which all the chosen ones stand first."""
    rows = unpadded(
        batch["input_ids"], batch["attention_mask"], batch.get("completion_mask", batch["input_ids"])
    )
    half = len(rows) // 2
    return list(zip(rows[:half], rows[half:], strict=True))


def pair_step(run: Trained, loss: Callable[[list[Pair]], Any]) -> None:
    """A step of DPO's trainer agrees with `loss` of its pairs, averaged over micro-batches."""
    batches, _ = run.batches()
    policy, reference = run.policy(), run.plain()
    micro_losses = []
    for batch in batches:
        made = [
            Pair(*(model.log_probs(row) for model in (policy, reference) for row in rows))
            for rows in pairs(run, batch)
        ]
        assert all(abs(float(ratio.detach())) > 0.01 for pair in made for ratio in pair.ratios)
        micro_losses.append(loss(made))
    run.agrees(run.step(batches), mean(micro_losses), policy)
    assert run.num_shared > 0
    assert not run.refused


@pytest.mark.parametrize("precomputed", [True, False], ids=["reference precomputed", "reference asked"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_dpo_is_that_of_its_paper_whenever_the_reference_is_asked(tiny_model, tuning, precomputed):
    run = build(tiny_model, "dpo", f"trl.precompute_ref_log_probs={precomputed}", tuning=tuning)
    run.disturb(0.05)
    pair_step(run, lambda made: mean([losses.dpo(pair, 0.1) for pair in made]))


@pytest.mark.parametrize(
    ("method", "settings", "loss"),
    [
        ("ipo", [], losses.ipo),
        ("dpo", ["trl.loss_type=hinge"], losses.hinge),
        ("dpo", ["trl.loss_type=robust", "trl.label_smoothing=0.1"], losses.robust),
        ("dpo", ["trl.loss_type=apo_zero"], losses.apo_zero),
        ("dpo", ["trl.loss_type=sppo_hard"], losses.sppo_hard),
        ("dpo", ["trl.loss_type=nca_pair"], losses.nca_pair),
    ],
    ids=["ipo", "hinge", "robust", "apo_zero", "sppo_hard", "nca_pair"],
)
def test_other_losses_on_pairs_are_those_of_their_papers(tiny_model, method, settings, loss):
    run = build(tiny_model, method, "trl.beta=0.2", *settings)
    run.disturb(0.05)
    pair_step(run, lambda made: mean([loss(pair, 0.2) for pair in made]))


def test_losses_on_pairs_are_added_with_their_weights(tiny_model):
    # MPO, arXiv 2411.10442, section 3.2: a weighted sum of losses; its likelihood term is a mean over each
    # answer's tokens, TRL's over all tokens of the micro-batch.
    run = build(tiny_model, "dpo", "trl.loss_type=[sigmoid, sft]", "trl.loss_weights=[0.8, 0.3]")
    run.disturb(0.05)
    pair_step(
        run,
        lambda made: (
            0.8 * mean([losses.dpo(pair, 0.1) for pair in made])
            + 0.3 * losses.likelihood([pair.good for pair in made])
        ),
    )


def judged_rows(batch: dict[str, Any]) -> list[Row]:
    return unpadded(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])


@pytest.mark.parametrize("drifts_up", [True, False], ids=["positive z0", "z0 held at 0"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_kto_is_that_of_its_paper(tiny_model, tuning, drifts_up):
    run = build(tiny_model, "kto", tuning=tuning, rows=8)
    run.disturb(0.02 if drifts_up else 0.05)
    batches, _ = run.batches()
    if drifts_up:
        rows = [row for batch in batches for row in judged_rows(batch)]
        for _ in range(1 if tuning == "full" else 10):
            run.raise_likelihood(rows, size=0.5 if tuning == "full" else 1.0)
    policy, reference = run.policy(), run.plain()
    micro_losses, drifts, seen = [], [], set()
    for batch in batches:
        rows = judged_rows(batch)
        others = [rows[i - 1].answer for i in range(len(rows))]
        unrelated = [prompt_and_answer(row.prompt, other) for row, other in zip(rows, others, strict=True)]
        drift = [policy.log_probs(row).sum() - reference.log_probs(row).sum() for row in unrelated]
        drifts.append(float(mean(drift).detach()))
        labels = [bool(label) for label in batch["label"]]
        judged = [
            (policy.log_probs(row), reference.log_probs(row), label)
            for row, label in zip(rows, labels, strict=True)
        ]
        seen |= set(labels)
        micro_losses.append(losses.kto(judged, drift, beta=0.1))
    assert all((drift > 0.1) == drifts_up for drift in drifts)
    assert len(seen) == 2
    run.agrees(run.step(batches), mean(micro_losses), policy)


def answers_of(policy: PlainModel, batch: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Log-probabilities of chosen and rejected answers, in a batch of ORPO's and CPO's trainers."""
    sides = [
        unpadded(batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"], batch[f"{side}_labels"] != -100)
        for side in ("chosen", "rejected")
    ]
    return [tuple(policy.log_probs(row) for row in rows) for rows in zip(*sides, strict=True)]


def orpo(policy: PlainModel, batch: dict[str, Any]) -> Any:
    ids, mask = batch["chosen_input_ids"], batch["chosen_attention_mask"]
    texts = [policy.log_probs(row) for row in unpadded(ids, mask, mask)]
    return losses.orpo(answers_of(policy, batch), texts, weight=0.1)


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize(
    ("method", "loss"),
    [
        ("orpo", orpo),
        ("cpo", lambda policy, batch: losses.cpo(answers_of(policy, batch), beta=0.1)),
        ("simpo", lambda policy, batch: losses.simpo(answers_of(policy, batch), beta=2.0, gamma=1.0)),
    ],
    ids=["orpo", "cpo", "simpo"],
)
def test_losses_without_a_reference_are_those_of_their_papers(tiny_model, method, loss, tuning):
    run = build(tiny_model, method, tuning=tuning)
    run.disturb(0.1)
    batches, _ = run.batches()
    policy = run.policy()
    expected = mean([loss(policy, batch) for batch in batches])
    run.agrees(run.step(batches), expected, policy)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_reward_is_the_likelihood_of_the_choice_between_two_texts(tiny_model, tuning):
    run = build(tiny_model, "reward", tuning=tuning)
    run.disturb(0.1)
    batches, _ = run.batches()
    policy = run.policy()
    scores = [
        tuple(policy.logits(row.ids)[0] for row in rows) for batch in batches for rows in pairs(run, batch)
    ]
    run.agrees(run.step(batches), losses.bradley_terry(scores), policy)


def reward(text: str) -> float:
    """The reward of method_data's rewards.py."""
    return -len(set(text)) / 10


def short_answers(model: Path) -> str:
    """Settings under which one of seven tokens is sampled, so that about half of the answers end in time."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    allowed = {tokenizer.eos_token_id, *(tokenizer.convert_tokens_to_ids(letter) for letter in "abcdef")}
    others = sorted(set(range(len(tokenizer))) - allowed)
    return f"trl.generation_kwargs={{suppress_tokens: {others}}}"


class Sampled(NamedTuple):
    """A sampled answer after its prompt, its reward, whether it ended in time, and TRL's advantage for it."""

    row: Row
    reward: float
    ended: bool
    advantage: float


def sampled(run: Trained, batch: dict[str, Any]) -> list[Sampled]:
    """The answers of a micro-batch, read without TRL's masks: up to the token that ends them."""
    eos = run.setup.tokenizer.eos_token_id
    found = []
    for i, prompt in enumerate(unpadded(batch["prompt_ids"], batch["prompt_mask"], batch["prompt_mask"])):
        answer = batch["completion_ids"][i].tolist()
        ended = eos in answer
        answer = answer[: answer.index(eos) + 1] if ended else answer
        text = run.setup.tokenizer.decode(answer, skip_special_tokens=True)
        advantage = float(batch["advantages"][i]) if "advantages" in batch else 0.0
        found.append(Sampled(prompt_and_answer(prompt.ids, answer), reward(text), ended, advantage))
    return found


def both_kinds(rollout: list[list[Sampled]]) -> bool:
    """Whether some answers ended in time and some did not."""
    return len({each.ended for batch in rollout for each in batch}) == 2


def grouped_step(
    run: Trained, advantages: Callable[[list[float]], list[float]], loss: Callable[..., Any], *, drift: float,
    beta: float = 0.0,
) -> list[Answer]:  # fmt: skip
    """The second step that is made from a set of answers agrees with `loss`; without `drift`, the first one.

    `loss` takes the step's answers and the number of those sampled at once. The reference, the policy that
    sampled and the one that is trained then differ. `beta` is the weight of a KL term in the reward.
    """
    run.disturb(0.03)
    sampler, reference = run.policy(), run.plain()
    prompts = next(iter(run.trainer.get_train_dataloader()))
    found = run.step([prompts, prompts])
    if drift:
        run.disturb(drift, seed=1)
        found = run.step([prompts, prompts])
    rollout = [sampled(run, batch) for batch in run.trainer._buffered_inputs]
    assert both_kinds(rollout)
    groups: dict[tuple[int, ...], list[Sampled]] = {}
    for answer in (each for batch in rollout for each in batch):
        groups.setdefault(tuple(answer.row.prompt), []).append(answer)
    for group in groups.values():
        assert len(group) == losses.NUM_GENERATIONS
        rewards = [
            each.reward
            - beta * float((sampler.log_probs(each.row) - reference.log_probs(each.row)).sum().detach())
            for each in group
        ]
        assert [each.advantage for each in group] == pytest.approx(advantages(rewards), abs=1e-4)
    assert any(abs(each.advantage) > 0.1 for group in groups.values() for each in group)
    policy = run.policy()
    now = [each for batch in (rollout[2:4] if drift else rollout) for each in batch]
    if run.trainer.args.mask_truncated_completions:
        now = [each for each in now if each.ended]
    answers = [
        Answer(
            policy.log_probs(each.row),
            sampler.log_probs(each.row).detach(),
            reference.log_probs(each.row).detach(),
            each.advantage,
        )
        for each in now
    ]
    run.agrees(found, loss(answers, rollout), policy)
    assert run.num_shared > 0
    assert not run.refused
    return answers


def cut_share(ratios: list[Any], answers: list[Answer], low: float, high: float) -> float:
    """The share of ratios whose gradient the clip takes away."""
    import torch

    cut = [
        ((ratio > 1 + high) & (answer.advantage > 0)) | ((ratio < 1 - low) & (answer.advantage < 0))
        for ratio, answer in zip(ratios, answers, strict=True)
    ]
    return float(torch.cat([each.reshape(-1) for each in cut]).float().mean())


TWO_STEPS = "trl.steps_per_generation=4"


@pytest.mark.parametrize("weighted_kl", [False, True], ids=["kl of the paper", "kl of TRL"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_grpo_is_that_of_its_paper_where_it_clips_and_with_its_kl_term(tiny_model, tuning, weighted_kl):
    settings = ["trl.loss_type=grpo", "trl.beta=0.2", "trl.epsilon=0.15", TWO_STEPS]
    settings += [] if weighted_kl else ["trl.use_bias_correction_kl=false"]
    run = build(tiny_model, "grpo", short_answers(tiny_model), *settings, tuning=tuning, rows=16)
    answers = grouped_step(
        run,
        losses.group_advantages,
        lambda made, rollout: losses.grpo(made, 0.15, 0.15, beta=0.2, weighted_kl=weighted_kl),
        drift=0.03,
    )
    assert 0.05 < cut_share([(each.new - each.old).exp() for each in answers], answers, 0.15, 0.15) < 0.6


def test_grpo_as_trl_has_it_by_default_is_at_token_level_without_kl(tiny_model):
    # TRL's loss_type is dapo unless it is set: tokens weigh the same, whichever answer they are of. The mean
    # of each answer's mean (GRPO's paper, eq. 3) is loss_type grpo.
    run = build(tiny_model, "grpo", short_answers(tiny_model), rows=16)
    grouped_step(
        run,
        losses.group_advantages,
        lambda made, rollout: losses.token_level(made, 0.2, 0.2, sum(len(each.new) for each in made)),
        drift=0.0,
    )


def test_dr_grpo_is_that_of_its_paper(tiny_model):
    run = build(tiny_model, "dr_grpo", short_answers(tiny_model), TWO_STEPS, rows=16)
    answers = grouped_step(
        run,
        lambda rewards: losses.group_advantages(rewards, scaled=False),
        lambda made, rollout: losses.dr_grpo(
            made, low=0.2, high=0.2, max_tokens=losses.MAX_COMPLETION_LENGTH
        ),
        drift=0.04,
    )
    assert 0.05 < cut_share([(each.new - each.old).exp() for each in answers], answers, 0.2, 0.2) < 0.6


def test_dapo_is_that_of_its_paper_and_leaves_out_answers_without_an_end(tiny_model):
    run = build(tiny_model, "dapo", short_answers(tiny_model), rows=16)
    assert run.trainer.args.steps_per_generation == 8

    def loss(made, rollout):
        tokens_a_step = sum(len(each.row.answer) for batch in rollout for each in batch if each.ended) / 4
        return losses.token_level(made, low=0.2, high=0.28, num_tokens=tokens_a_step)

    answers = grouped_step(run, losses.group_advantages, loss, drift=0.05)
    assert 0.05 < cut_share([(each.new - each.old).exp() for each in answers], answers, 0.2, 0.28) < 0.6


def test_gspo_is_that_of_its_paper(tiny_model):
    run = build(tiny_model, "gspo", short_answers(tiny_model), rows=16)
    answers = grouped_step(
        run,
        losses.group_advantages,
        lambda made, rollout: losses.gspo(made, low=3e-4, high=4e-4),
        drift=2e-4,
    )
    ratios = [(each.new - each.old).mean().exp() for each in answers]
    assert 0.05 < cut_share(ratios, answers, 3e-4, 4e-4) < 0.6


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_rloo_is_that_of_its_paper_and_is_clipped(tiny_model, tuning):
    run = build(tiny_model, "rloo", short_answers(tiny_model), TWO_STEPS, tuning=tuning, rows=16)
    answers = grouped_step(
        run,
        losses.leave_one_out,
        lambda made, rollout: losses.rloo(made, low=0.2, high=0.2),
        drift=0.02,
        beta=0.05,
    )
    assert 0.05 < cut_share([(each.new - each.old).sum().exp() for each in answers], answers, 0.2, 0.2) < 0.6


@pytest.mark.parametrize(("tuning", "beta"), [("full", 1.0), ("full", 0.5), ("full", 0.0), ("lora", 0.7)])
def test_distillation_is_the_divergence_between_teacher_and_student(tiny_model, teacher, tuning, beta):
    # GKD's paper takes each answer's mean over its tokens; TRL the mean over the tokens of the step.
    settings = [] if beta == 1.0 else [f"trl.beta={beta}"]
    settings += [short_answers(tiny_model), f"teacher_model={teacher}"]
    run = build(tiny_model, "distillation", *settings, tuning=tuning, rows=8)
    run.disturb(0.05)
    policy, judge = run.policy(), run.plain(folder=teacher)
    prompts = next(iter(run.trainer.get_train_dataloader()))
    found = run.step([prompts, prompts])
    rollout = [sampled(run, batch) for batch in run.trainer._buffered_inputs]
    assert both_kinds(rollout)
    rows = [each.row for batch in rollout for each in batch]
    tokens = [losses.divergence(judge.distributions(row), policy.distributions(row), beta) for row in rows]
    run.agrees(found, -losses.likelihood(tokens), policy)


def test_no_method_is_left_out_here():
    source = Path(__file__).read_text(encoding="utf-8")
    assert not [method for method in METHODS if f'"{method}"' not in source]
