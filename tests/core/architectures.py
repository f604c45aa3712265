"""Tiny configurations of mlx-lm architectures, chosen to differ in their caches."""

from __future__ import annotations

from typing import Any

BASE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-5,
    "vocab_size": 512,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
WINDOW = 24


def _config(model_type: str, **changes: Any) -> dict[str, Any]:
    return {**BASE, "model_type": model_type, **changes}


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _config("llama"),
    "qwen2": _config("qwen2"),
    "qwen3": _config("qwen3"),
    "qwen3_moe": _config(
        "qwen3_moe",
        num_experts=4,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        moe_intermediate_size=64,
        norm_topk_prob=True,
    ),
    "gemma2": _config("gemma2"),
    "gemma3_text": _config("gemma3_text", sliding_window=WINDOW, sliding_window_pattern=2),
    "phi3": _config("phi3"),
    "ministral3": _config(
        "ministral3",
        rope_parameters={
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 4096,
            "llama_4_scaling_beta": 0.1,
        },
        layer_types=["full_attention", "sliding_attention"],
        sliding_window=WINDOW,
    ),
    "gpt_oss": _config(
        "gpt_oss",
        num_local_experts=4,
        num_experts_per_tok=2,
        intermediate_size=64,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "mamba": _config(
        "mamba",
        state_size=16,
        conv_kernel=4,
        use_bias=False,
        use_conv_bias=True,
        time_step_rank=8,
    ),
    "falcon_h1": _config(
        "falcon_h1",
        mamba_d_conv=4,
        mamba_d_head=32,
        mamba_d_ssm=128,
        mamba_d_state=16,
        mamba_n_groups=1,
        mamba_n_heads=4,
        mamba_chunk_size=16,
    ),
    "jamba": _config(
        "jamba",
        attn_layer_offset=1,
        attn_layer_period=2,
        expert_layer_offset=1,
        expert_layer_period=2,
        mamba_d_conv=4,
        mamba_d_state=16,
        mamba_expand=2,
        num_experts=4,
        num_experts_per_tok=2,
    ),
    "deepseek_v3": _config(
        "deepseek_v3",
        num_key_value_heads=4,
        moe_intermediate_size=64,
        n_shared_experts=1,
        n_routed_experts=4,
        num_experts_per_tok=2,
        kv_lora_rank=32,
        q_lora_rank=32,
        qk_rope_head_dim=16,
        qk_nope_head_dim=32,
        v_head_dim=32,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        norm_topk_prob=True,
    ),
    "recurrent_gemma": _config(
        "recurrent_gemma",
        attention_bias=False,
        conv1d_width=4,
        logits_soft_cap=30.0,
        attention_window_size=WINDOW,
        num_key_value_heads=1,
        num_hidden_layers=3,
        block_types=["recurrent", "recurrent", "attention"],
    ),
    "rwkv7": _config(
        "rwkv7",
        norm_eps=1e-5,
        a_low_rank_dim=16,
        v_low_rank_dim=16,
        gate_low_rank_dim=16,
        decay_low_rank_dim=16,
    ),
    "cohere2": _config("cohere2", head_dim=16, sliding_window=WINDOW, sliding_window_pattern=2),
    "llama4": {
        "model_type": "llama4",
        "text_config": _config(
            "llama4_text",
            num_hidden_layers=4,
            attention_bias=False,
            attention_chunk_size=WINDOW,
            interleave_moe_layer_step=2,
            intermediate_size_mlp=128,
            num_experts_per_tok=1,
            num_local_experts=4,
            rope_scaling=None,
            use_qk_norm=True,
        ),
    },
}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "n_routed_experts": 4,
    "norm_topk_prob": True,
    "attention_bias": False,
}
# Further ones whose caches are like those of some above, or lists of them.
MORE: dict[str, dict[str, Any]] = {
    "llama_windows": _config(
        "llama", layer_types=["full_attention", "sliding_attention"], sliding_window=WINDOW
    ),
    "olmo3": _config(
        "olmo3", layer_types=["full_attention", "sliding_attention"], sliding_window=WINDOW
    ),
    "exaone4": _config(
        "exaone4",
        sliding_window=WINDOW,
        sliding_window_pattern="LG",
        rope_scaling={"rope_type": "default"},
    ),
    "deepseek_v32": _config(
        "deepseek_v32",
        **_LATENT,
        moe_intermediate_size=64,
        n_shared_experts=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        index_head_dim=32,
        index_n_heads=2,
        index_topk=WINDOW,
    ),
    "longcat_flash": _config(
        "longcat_flash",
        **_LATENT,
        attention_method="MLA",
        zero_expert_type="identity",
        ffn_hidden_size=128,
        moe_topk=2,
        expert_ffn_hidden_size=64,
        zero_expert_num=2,
        num_layers=2,
        routed_scaling_factor=1.0,
        mla_scale_q_lora=True,
        mla_scale_kv_lora=True,
    ),
}
# Its sparse attention chooses blocks of places, and its caches are lists of them.
PLACED: dict[str, Any] = {
    "model_type": "minimax_m3_vl",
    "text_config": _config(
        "minimax_m3_vl",
        num_local_experts=4,
        num_experts_per_tok=2,
        dense_intermediate_size=128,
        shared_intermediate_size=64,
        index_n_heads=2,
        index_head_dim=32,
        index_block_size=8,
        index_topk_blocks=2,
    ),
}
# One for each kind of cache: plain, latent, sliding, chunked, recurrent, and two kinds together.
KINDS = ("llama", "deepseek_v3", "gemma3_text", "llama4", "mamba", "falcon_h1")
# Random weights of these saturate their soft caps unless they are small.
SCALES = {"gemma2": 0.3}
# llama4's chunked caches have no merge; gemma2's attention takes no batch masks when its
# key-value heads are grouped.
UNBATCHABLE = {"llama4", "gemma2"}
