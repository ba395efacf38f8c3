"""config.json values of published models and of small ones of every family, and the models they make."""

from tunesmith.plan.families import FAMILIES


def sizes(model_type, hidden, intermediate, heads, kv_heads, layers, vocab, **more):
    """A config.json's sizes under the names that most families use."""
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
        **more,
    }


TIED = {"tie_word_embeddings": True}
QWEN_EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8, "head_dim": 128}
GPT_OSS = {"head_dim": 64, "num_experts_per_tok": 4, "sliding_window": 128, "attention_bias": True}
GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}
DEEPSEEK = {
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
# The values of the published config.json, and how many parameters the model has with tied ends counted once.
PUBLISHED = {
    "Qwen2.5-0.5B": (sizes("qwen2", 896, 4864, 14, 2, 24, 151_936, **TIED), 494_032_768),
    "Qwen2.5-1.5B": (sizes("qwen2", 1536, 8960, 12, 2, 28, 151_936, **TIED), 1_543_714_304),
    "Qwen2.5-7B": (sizes("qwen2", 3584, 18944, 28, 4, 28, 152_064), 7_615_616_512),
    "Qwen2.5-72B": (sizes("qwen2", 8192, 29568, 64, 8, 80, 152_064), 72_706_203_648),
    "Qwen3-0.6B": (sizes("qwen3", 1024, 3072, 16, 8, 28, 151_936, head_dim=128, **TIED), 596_049_920),
    "Qwen3-8B": (sizes("qwen3", 4096, 12288, 32, 8, 36, 151_936, head_dim=128), 8_190_735_360),
    "Qwen3-30B-A3B": (
        sizes("qwen3_moe", 2048, 6144, 32, 4, 48, 151_936, moe_intermediate_size=768, **QWEN_EXPERTS),
        30_532_122_624,
    ),
    "Qwen3-235B-A22B": (
        sizes("qwen3_moe", 4096, 12288, 64, 4, 94, 151_936, moe_intermediate_size=1536, **QWEN_EXPERTS),
        235_093_634_560,
    ),
    "Qwen1.5-MoE-A2.7B": (
        sizes("qwen2_moe", 2048, 5632, 16, 16, 24, 151_936, num_experts=60, num_experts_per_tok=4)
        | {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
        14_315_784_192,
    ),
    "Llama-3.1-8B": (sizes("llama", 4096, 14336, 32, 8, 32, 128_256), 8_030_261_248),
    "Llama-3.2-1B": (sizes("llama", 2048, 8192, 32, 8, 16, 128_256, head_dim=64, **TIED), 1_235_814_400),
    "Llama-3.3-70B": (sizes("llama", 8192, 28672, 64, 8, 80, 128_256), 70_553_706_496),
    "Mistral-7B-v0.1": (sizes("mistral", 4096, 14336, 32, 8, 32, 32_000), 7_241_732_096),
    "Mistral-7B-v0.3": (sizes("mistral", 4096, 14336, 32, 8, 32, 32_768), 7_248_023_552),
    "Mixtral-8x7B": (
        sizes("mixtral", 4096, 14336, 32, 8, 32, 32_000, num_local_experts=8, num_experts_per_tok=2),
        46_702_792_704,
    ),
    "Gemma-2B": (sizes("gemma", 2048, 16384, 8, 1, 18, 256_000, head_dim=256), 2_506_172_416),
    "Gemma-2-2B": (sizes("gemma2", 2304, 9216, 8, 4, 26, 256_000, head_dim=256), 2_614_341_888),
    "Gemma-2-9B": (sizes("gemma2", 3584, 14336, 16, 8, 42, 256_000, head_dim=256), 9_241_705_984),
    "Gemma-3-1B": (sizes("gemma3_text", 1152, 6912, 4, 1, 26, 262_144, head_dim=256), 999_885_952),
    "Phi-3-mini": (sizes("phi3", 3072, 8192, 32, 32, 32, 32_064), 3_821_079_552),
    "Phi-4": (sizes("phi3", 5120, 17920, 40, 10, 40, 100_352), 14_659_507_200),
    "Phi-2": (sizes("phi", 2560, 10240, 32, 32, 32, 51_200), 2_779_683_840),
    "OLMo-2-1B": (sizes("olmo2", 2048, 8192, 16, 16, 16, 100_352), 1_484_916_736),
    "OLMoE-1B-7B": (
        sizes("olmoe", 2048, 1024, 16, 16, 16, 50_304, num_experts=64, num_experts_per_tok=8),
        6_919_161_856,
    ),
    "SmolLM2-135M": (sizes("llama", 576, 1536, 9, 3, 30, 49_152, **TIED), 134_515_008),
    "SmolLM2-1.7B": (sizes("llama", 2048, 8192, 32, 32, 24, 49_152, **TIED), 1_711_376_384),
    "SmolLM3-3B": (sizes("smollm3", 2048, 11008, 16, 4, 36, 128_256), 3_075_098_624),
    "gpt-oss-20b": (
        sizes("gpt_oss", 2880, 2880, 64, 8, 24, 201_088, num_local_experts=32, **GPT_OSS),
        20_914_757_184,
    ),
    "gpt-oss-120b": (
        sizes("gpt_oss", 2880, 2880, 64, 8, 36, 201_088, num_local_experts=128, **GPT_OSS),
        116_829_156_672,
    ),
    # 671B as the paper (arXiv 2412.19437) counts, without the layer for multi-token prediction.
    "DeepSeek-V3": (sizes("deepseek_v3", 7168, 18432, 128, 128, 61, 129_280, **DEEPSEEK), 671_026_404_352),
    "GPT-2": (GPT2, 124_439_808),
    "Pythia-160M": (sizes("gpt_neox", 768, 3072, 12, 12, 12, 50_304), 162_322_944),
    "StarCoder2-3B": (sizes("starcoder2", 3072, 12288, 24, 2, 30, 49_152), 3_030_371_328),
    "StableLM-2-1.6B": (sizes("stablelm", 2048, 5632, 32, 32, 24, 100_352, use_qkv_bias=True), 1_644_515_328),
    "Granite-3.1-2B": (sizes("granite", 2048, 8192, 32, 8, 40, 49_155, **TIED), 2_533_531_648),
    "Command-R": (sizes("cohere", 8192, 22528, 64, 64, 40, 256_000), 34_980_831_232),
}
SMALL_EXPERTS = {
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "q_lora_rank": 20,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
}


def small(model_type, **more):
    """Three layers of a family, with four experts where it has any."""
    experts = {}
    if FAMILIES[model_type].experts != "none":
        key = {"all": "num_local_experts", "step": "num_experts", "later": "n_routed_experts"}
        experts = {key[FAMILIES[model_type].experts]: 4, **SMALL_EXPERTS}
    # transformers 5.23 can't build a ministral without head_dim; the published ones state it.
    head = {"head_dim": 16} if model_type == "ministral" else {}
    values = sizes(model_type, 64, 96, 4, 2, 3, 130, pad_token_id=0, **experts, **head)
    return {**values, **more}


def on_meta(values):
    """transformers' own model of these values, without weights."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    values = dict(values)
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    if (config.pad_token_id or 0) >= config.vocab_size:
        config.pad_token_id = None
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)
