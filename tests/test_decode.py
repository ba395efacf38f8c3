"""The decoding loop: generate's answers from buffers of a fixed size, and generate where that can't be."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from method_data import options_for, write_method_data
from running import tunesmith

from tunesmith.train import decode, grouped
from tunesmith.train.decode import decode_captured
from tunesmith.train.decoder import Decoder, FixedCache

VOCAB, PAD, EOS = 24, 0, 1
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
    "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None,
}  # fmt: skip
LONG, SHORT, OTHER = [9, 8, 7, 6, 5, 4], [5, 6, 7], [11, 12, 3, 2]
GROUPS = [LONG] * 4 + [SHORT] * 4 + [OTHER] * 4


def random_model(kind: str = "llama", **changes: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | changes)).eval()


def given(prompts: list[list[int]], **options: Any) -> dict[str, Any]:
    """What generate is called with: prompts padded on the left, greedy unless told."""
    import torch

    width = max(map(len, prompts))
    padded = [[PAD] * (width - len(each)) + each for each in prompts]
    mask = [[0] * (width - len(each)) + [1] * len(each) for each in prompts]
    call = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
    return call | {"max_new_tokens": 20, "do_sample": False} | options


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each call of the loop has added, and the state that it did that with."""
    ran: list[Any] = []
    run = Decoder.run

    def watched(state: Decoder, limit: int) -> None:
        run(state, limit)
        ran.append(state)

    monkeypatch.setattr(Decoder, "run", watched)
    return ran


def with_adapter(model: Any, **options: Any) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return adapted


def shift_weights(model: Any) -> None:
    """In place, as an optimizer does it."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)


def assert_answers_are(model: Any, own: Any, call: dict[str, Any], loops: list[Any]) -> None:
    """The loop's answers are generate's; in 16 bits, where near ties turn, they have the model's numbers."""
    import torch

    found = model.generate(**call)
    if loops[-1].bias.dtype == torch.float32:
        assert torch.equal(found, own(**call))
    with torch.no_grad():
        decode.check(model, loops[-1], call["attention_mask"])


@pytest.mark.parametrize(
    "prompts", [GROUPS, [LONG], [SHORT, LONG, OTHER], [SHORT] * 3], ids=["groups", "one", "apart", "same"]
)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_greedy_answers_are_those_of_generate(kind: str, prompts: list[list[int]], loops: list[Any]):
    import torch

    model = random_model(kind)
    expected = model.generate(**given(prompts))
    said: list[str] = []
    decode_captured(model, said.append)
    assert torch.equal(model.generate(**given(prompts)), expected)
    assert len(loops) == 1
    assert not said


@pytest.mark.parametrize("ends", [1, 2, 5], ids=lambda n: f"{n} tokens end an answer")
def test_ended_rows_are_padded_and_the_batch_is_as_long_as_its_longest_answer(ends: int, loops: list[Any]):
    import torch

    model = random_model()
    prompts = [[5 + i, 9, 3] for i in range(6)]
    options = {"eos_token_id": list(range(2, 2 + ends)), "max_new_tokens": 100}
    expected = model.generate(**given(prompts, **options))
    lengths = {row[3:].index(PAD) if PAD in row[3:] else len(row) - 3 for row in expected.tolist()}
    assert len(lengths) > 1, "rows are to end at different places"
    decode_captured(model, pytest.fail)
    assert torch.equal(model.generate(**given(prompts, **options)), expected)
    if expected.shape[1] < 80:
        assert loops[0].done <= expected.shape[1] - 3 + 2 * 8, "it goes on long after all have ended"


def test_a_prompt_of_a_group_is_read_once_and_then_a_token_a_row(loops: list[Any]):
    model = random_model()
    sizes: list[tuple[int, ...]] = []
    decode_captured(model, pytest.fail)
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    model.generate(**given(GROUPS))
    assert sizes[:3] == [(3, 5), (12, 1), (12, 1)]


def test_rows_of_the_same_tokens_that_are_padded_otherwise_are_two_prompts(loops: list[Any]):
    """The token that pads may stand in a prompt as well."""
    import torch

    model = random_model()
    call = given([[PAD, 7, 8]] * 2)
    call["attention_mask"] = torch.tensor([[1, 1, 1], [0, 1, 1]])
    expected = model.generate(**call)
    decode_captured(model, pytest.fail)
    assert torch.equal(model.generate(**call), expected)
    assert loops


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_answers_of_an_adapted_model_are_its_own_and_the_base_models_without_it(
    training: bool, loops: list[Any]
):
    import torch

    model = with_adapter(random_model()).train(training)
    expected = model.generate(**given(GROUPS))
    with model.disable_adapter():
        base = model.generate(**given(GROUPS))
    assert not torch.equal(expected, base)
    decode_captured(model.get_base_model(), pytest.fail)
    assert torch.equal(model.generate(**given(GROUPS)), expected)
    with model.disable_adapter():
        assert torch.equal(model.generate(**given(GROUPS)), base)
    assert torch.equal(model.generate(**given(GROUPS)), expected)
    assert loops[0] is loops[2] is not loops[1], "one state for each"


def test_a_state_serves_later_batches_and_weights(loops: list[Any]):
    import torch

    model = random_model()
    calls = [given(GROUPS), given([OTHER] * 6 + [LONG + SHORT] * 6, max_new_tokens=30), given(GROUPS[::-1])]
    expected = [model.generate(**calls[0])]
    shift_weights(model)
    expected += [model.generate(**each) for each in calls[1:]]
    model = random_model()
    decode_captured(model, pytest.fail)
    found = [model.generate(**calls[0])]
    torch.manual_seed(3)
    random_model()  # so that the weights are shifted by the same numbers
    shift_weights(model)
    found += [model.generate(**each) for each in calls[1:]]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert loops[0] is loops[1] is loops[2]


def test_nothing_of_an_earlier_batch_is_left_in_a_state(loops: list[Any]):
    """Not even numbers that aren't any, from a batch that overflowed."""
    import torch

    model = random_model()
    expected = model.generate(**given(GROUPS))
    decode_captured(model, pytest.fail)
    model.generate(**given(GROUPS))
    state = loops[0]
    for tensor in (state.tokens, state.log_probs, state.bias, state.place, state.position, state.ended):
        tensor.fill_(1)
    for buffer in sum(state.cache.layers, ()):
        buffer.fill_(torch.nan)
    assert torch.equal(model.generate(**given(GROUPS)), expected)
    decode.check(model, state, given(GROUPS)["attention_mask"])
    assert loops[1] is state


def test_a_state_that_inference_mode_made_serves_outside_of_it(loops: list[Any]):
    """Answers before and after a training are generated in inference mode."""
    import torch

    model = random_model()
    decode_captured(model, pytest.fail)
    with torch.inference_mode():
        first = model.generate(**given(GROUPS))
        model.generate(**given(GROUPS))
    assert torch.equal(model.generate(**given(GROUPS)), first)
    assert loops[0] is loops[2]


def test_states_are_few_and_of_fitting_size(loops: list[Any]):
    model = random_model(max_position_embeddings=4096)
    wrapped = model.generate
    decode_captured(model, pytest.fail)
    kept = model.generate.__closure__
    loop = next(cell.cell_contents for cell in kept if isinstance(cell.cell_contents, decode.Loop))
    assert wrapped is not model.generate
    for num_rows, limit, room in (
        (2, 20, 64),
        (2, 100, 128),
        (2, 20, 128),
        (3, 20, 64),
        (2, 300, 320),
        (2, 20, 64),
    ):
        model.generate(**given([SHORT] * num_rows, max_new_tokens=limit))
        assert loops[-1].room == room
        assert len(loop.kept) <= 2
    # Other weights at other addresses: what was captured reads the old ones.
    before = loops[-1]
    model.lm_head.weight.data = model.lm_head.weight.data.clone()
    model.generate(**given([SHORT] * 2))
    assert loops[-1] is not before


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0, "top_k": 0},
        {"temperature": 0.6, "top_k": 0},
        {"temperature": 1.4, "top_k": 6},
        {"top_k": 0, "top_p": 0.7},
        {"top_k": 0, "min_p": 0.1},
        {"temperature": 1.3, "top_k": 12, "top_p": 0.8, "min_p": 0.02},
    ],
    ids=str,
)
def test_tokens_are_drawn_from_the_distribution_that_the_settings_leave(options: dict[str, Any]):
    import torch

    model, num_rows = random_model(), 6000
    call = given([SHORT])
    with torch.no_grad():
        scores = model(call["input_ids"]).logits[0, -1] / options.get("temperature", 1.0)
    left = torch.ones(VOCAB, dtype=torch.bool)
    if top_k := options["top_k"]:
        left[scores.argsort(descending=True)[top_k:]] = False
    if top_p := options.get("top_p"):
        order = scores.masked_fill(~left, -torch.inf).argsort(descending=True)
        summed = scores.masked_fill(~left, -torch.inf).softmax(0)[order].cumsum(0)
        left[order[1:][summed[:-1] >= top_p]] = False
    if min_p := options.get("min_p"):
        probs = scores.masked_fill(~left, -torch.inf).softmax(0)
        left &= probs >= min_p * probs.max()
    expected = scores.masked_fill(~left, -torch.inf).softmax(0) * num_rows
    decode_captured(model, pytest.fail)
    call = given([SHORT] * num_rows, max_new_tokens=1, do_sample=True, **options)
    torch.manual_seed(5)
    found = model.generate(**call)[:, -1]
    counts = torch.bincount(found, minlength=VOCAB)
    assert counts[~left].sum() == 0
    assert 1 < int(left.sum()) < VOCAB or not {"top_p", "min_p"} & options.keys()
    common = expected >= 5
    chi_square = ((counts - expected) ** 2 / expected)[common].sum()
    degrees = int(common.sum()) - 1
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5, (chi_square, degrees)
    torch.manual_seed(5)
    assert torch.equal(model.generate(**call)[:, -1], found), "the seed holds"


def test_the_second_token_is_drawn_from_what_follows_the_first():
    import torch

    model, num_rows = random_model(), 4000
    decode_captured(model, pytest.fail)
    torch.manual_seed(6)
    call = given([SHORT] * num_rows, max_new_tokens=2, do_sample=True, top_k=0, eos_token_id=[VOCAB + 1])
    found = model.generate(**call)
    first = int(found[:, 3].mode().values)
    with torch.no_grad():
        probs = model(torch.tensor([[*SHORT, first]])).logits[0, -1].softmax(0)
    second = found[found[:, 3] == first, 4]
    expected = probs * len(second)
    common = expected >= 5
    chi_square = ((torch.bincount(second, minlength=VOCAB) - expected) ** 2 / expected)[common].sum()
    degrees = int(common.sum()) - 1
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5, (chi_square, degrees)


@pytest.mark.parametrize("where", ["around", "within"])
def test_answers_under_autocast_are_those_of_generate(where: str, loops: list[Any]):
    """As a full training reads its fp32 weights: accelerate puts autocast within the model's forward."""
    import torch

    model = random_model()
    own = model.generate
    decode_captured(model, pytest.fail)
    autocast, inner = torch.autocast("cpu", dtype=torch.bfloat16), model.forward
    if where == "within":
        model.forward = autocast(inner)
    with autocast if where == "around" else contextlib.nullcontext():
        assert_answers_are(model, own, given(GROUPS), loops)
    model.forward = inner
    assert_answers_are(model, own, given(GROUPS), loops)
    keys = [each.cache.layers[0][0].dtype for each in loops]
    assert keys == [torch.bfloat16, torch.float32]


# --- what is left to generate ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": [5]},
        {"min_new_tokens": 3},
        {"bad_words_ids": [[4]]},
        {"num_beams": 2},
        {"num_return_sequences": 2, "do_sample": True},
        {"typical_p": 0.9, "do_sample": True},
        {"epsilon_cutoff": 0.01, "do_sample": True},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"return_dict_in_generate": True},
        {"output_scores": True},
        {"max_time": 100.0},
        {"max_new_tokens": None, "max_length": 30},
        {"renormalize_logits": True},
        {"prefill_chunk_size": 4},
    ],
    ids=lambda options: next(iter(options)),
)
def test_settings_that_the_loop_does_not_know_are_left_to_generate(options: dict[str, Any], loops: list[Any]):
    import torch

    model = random_model()
    torch.manual_seed(1)
    expected = model.generate(**given(GROUPS, **options))
    said: list[str] = []
    decode_captured(model, said.append)
    for _ in range(2):
        torch.manual_seed(1)
        found = model.generate(**given(GROUPS, **options))
        assert torch.equal(getattr(found, "sequences", found), getattr(expected, "sequences", expected))
    assert not loops
    assert len(said) == 1
    assert next(iter(options)) in said[0]
    model.generate(**given(GROUPS))
    assert len(loops) == 1, "one call of another kind spoils the next ones"


@pytest.mark.parametrize("what", ["logits_processor", "stopping_criteria", "streamer", "position_ids"])
def test_what_a_call_gives_beside_prompts_is_left_to_generate(what: str, loops: list[Any]):
    import torch
    from transformers import LogitsProcessorList, MaxLengthCriteria, StoppingCriteriaList
    from transformers.generation.streamers import BaseStreamer

    class Streamer(BaseStreamer):
        put = end = lambda self, *_: None

    values = {
        "logits_processor": LogitsProcessorList([lambda ids, scores: -scores]),
        "stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(8)]),
        "streamer": Streamer(),
        "position_ids": torch.arange(6)[None],
    }
    model = random_model()
    call = given([LONG], **{what: values[what]})
    expected = model.generate(**call)
    said: list[str] = []
    decode_captured(model, said.append)
    assert torch.equal(model.generate(**call), expected)
    assert not loops
    assert what in said[0]


def test_settings_of_the_models_own_generation_config_count(loops: list[Any]):
    import torch

    model = random_model()
    model.generation_config.repetition_penalty = 1.4
    expected = model.generate(**given(GROUPS))
    decode_captured(model, lambda sentence: None)
    assert torch.equal(model.generate(**given(GROUPS)), expected)
    assert not loops


def test_the_config_that_trl_makes_is_known(loops: list[Any]):
    from transformers import GenerationConfig

    model = random_model()
    decode_captured(model, pytest.fail)
    config = GenerationConfig(
        max_new_tokens=8, do_sample=True, pad_token_id=PAD, bos_token_id=None, eos_token_id=[EOS],
        temperature=1.0, top_p=1.0, top_k=0, min_p=None, repetition_penalty=1.0, cache_implementation=None,
        disable_compile=True,
    )  # fmt: skip
    call = given(GROUPS)
    ids, mask = call["input_ids"], call["attention_mask"]
    model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    assert len(loops) == 1


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("mistral", {"sliding_window": 4}, "cache"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "cache"),
        ("llama", {"attn_implementation": "eager"}, "attention is eager"),
        ("mamba", {"num_hidden_layers": 1}, ""),
    ],
)
def test_models_with_other_caches_or_attention_are_left_to_generate(
    kind: str, changes: dict[str, Any], why: str, loops: list[Any]
):
    import torch

    model = random_model(kind, **changes)
    expected = model.generate(**given(GROUPS))
    said: list[str] = []
    decode_captured(model, said.append)
    for _ in range(2):
        assert torch.equal(model.generate(**given(GROUPS)), expected)
    assert not loops
    assert len(said) == 1
    assert why in said[0]


@pytest.mark.parametrize("how", ["dropout", "recomputed"])
def test_a_training_mode_that_changes_answers_is_left_to_generate(how: str, loops: list[Any]):
    model = with_adapter(random_model(), lora_dropout=0.2 if how == "dropout" else 0.0)
    if how == "recomputed":
        model.gradient_checkpointing_enable()
    said: list[str] = []
    decode_captured(model.get_base_model(), said.append)
    model.train().generate(**given(GROUPS))
    assert not loops
    assert how in said[0]
    model.eval().generate(**given(GROUPS))
    assert len(loops) == 1


def test_prompts_padded_on_the_right_are_left_to_generate(loops: list[Any]):
    model = random_model()
    decode_captured(model, lambda sentence: None)
    call = given([SHORT, LONG])
    model.generate(**call | {name: call[name].flip(1) for name in ("input_ids", "attention_mask")})
    assert not loops


def test_a_loop_that_reads_other_things_than_the_model_is_found_out_at_once(monkeypatch, loops: list[Any]):
    import torch

    model = random_model()
    expected = model.generate(**given(GROUPS))
    said: list[str] = []
    decode_captured(model, said.append)
    fill = Decoder.fill

    def shifted(state: Decoder, *args: Any) -> None:
        fill(state, *args)
        state.position += 1

    monkeypatch.setattr(Decoder, "fill", shifted)
    for _ in range(2):
        assert torch.equal(model.generate(**given(GROUPS)), expected)
    assert len(loops) == 1
    assert len(said) == 1
    assert "log-probabilities" in said[0]


def test_a_step_that_fails_leaves_the_run_to_generate_with_the_models_own_attention(monkeypatch):
    import torch

    model = random_model()
    expected = model.generate(**given(GROUPS))
    said: list[str] = []
    decode_captured(model, said.append)

    def fails(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")

    monkeypatch.setattr(FixedCache, "update", fails)
    for _ in range(2):
        assert torch.equal(model.generate(**given(GROUPS)), expected)
    assert said == [
        "answers are sampled by transformers' generate, a slower way: CUDA out of memory. Tried to allocate"
    ]
    assert model.config._attn_implementation == "sdpa"


# --- trainings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_a_training_samples_by_the_loop(
    method: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, loops: list[Any]
):
    """As on a GPU, but without a graph; that no answer is generated otherwise shows in what is said."""
    monkeypatch.chdir(tmp_path)
    write_method_data(tmp_path, 12)
    monkeypatch.setattr(grouped, "share_prefill", decode_captured)
    ran = tunesmith(
        "train", *options_for(method, tiny_model), "--tuning", "lora", "--run-dir", "runs/sampled"
    )
    assert ran.code == 0, ran.err
    assert "slower way" not in ran.err
    assert len(loops) >= 3
    assert loops[0] is loops[1]


@pytest.mark.parametrize(("use_vllm", "wrapped"), [(False, True), (True, False)])
def test_on_a_gpu_the_loop_samples_unless_vllm_does(use_vllm: bool, wrapped: bool):
    from types import SimpleNamespace

    model = random_model()
    choice: Any = SimpleNamespace(device="cuda", attention="padded")
    trainer = SimpleNamespace(model=model, use_vllm=use_vllm)
    grouped.GroupedTrainer().speed_up(trainer, choice, pytest.fail)
    assert ("generate" in vars(model)) == wrapped


# --- on a GPU --------------------------------------------------------------------------------------------


@pytest.fixture(params=["float32", "bfloat16"])
def on_gpu(request: pytest.FixtureRequest) -> Any:
    """A function that puts a model or what generate is given there, in this precision."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    dtype = getattr(torch, str(request.param))

    def put(thing: Any) -> Any:
        if isinstance(thing, dict):
            return {name: each.cuda() if torch.is_tensor(each) else each for name, each in thing.items()}
        return thing.to("cuda", dtype)

    return put


def test_captured_answers_are_those_of_generate_and_follow_the_weights(on_gpu: Any, loops: list[Any]):
    model = with_adapter(on_gpu(random_model()))
    own = model.get_base_model().generate
    decode_captured(model.get_base_model(), pytest.fail)
    for prompts in (GROUPS, [OTHER] * 6 + [LONG + SHORT] * 6, GROUPS[::-1]):
        assert_answers_are(model, own, on_gpu(given(prompts)), loops)
        shift_weights(model)
    assert loops[0].graph is not None
    assert loops[0] is loops[1] is loops[2]


def test_captured_draws_differ_from_step_to_step_and_follow_the_seed(on_gpu: Any):
    import torch

    model = on_gpu(random_model())
    decode_captured(model, pytest.fail)
    call = on_gpu(given([SHORT] * 64, do_sample=True, top_k=0))
    torch.manual_seed(1)
    first, second = model.generate(**call), model.generate(**call)
    assert not torch.equal(first, second)
    assert len({tuple(row) for row in first.tolist()}) > 8
    torch.manual_seed(1)
    assert torch.equal(model.generate(**call), first), "a capture, or the lack of one, moves the draws"


def test_captured_answers_of_a_full_training_follow_the_weights_under_autocast(loops: list[Any]):
    """fp32 weights that autocast rounds: rounded copies of before must not stay in the graph."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = random_model().cuda()
    own = model.generate
    decode_captured(model, pytest.fail)
    inner = model.forward
    model.forward = torch.autocast("cuda", dtype=torch.bfloat16)(inner)
    call = {name: each.cuda() if torch.is_tensor(each) else each for name, each in given(GROUPS).items()}
    for outside in (False, False, True, True):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=outside):
            assert_answers_are(model, own, call, loops)
        shift_weights(model)
    assert loops[0] is loops[1]
