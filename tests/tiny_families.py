"""Tiny configurations of every family in the table: two layers of four heads, or nearly."""

from __future__ import annotations

from typing import Any

PLAIN = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
GROUPED = PLAIN | {"num_key_value_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": PLAIN,
    "camembert": PLAIN,
    "roberta": PLAIN,
    "xlm-roberta": PLAIN,
    "electra": PLAIN | {"embedding_size": 16},
    "deberta-v2": PLAIN | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "mpnet": PLAIN,
    "distilbert": {
        "vocab_size": 120,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 48,
        "pad_token_id": 0,
    },
    "gpt2": {
        "vocab_size": 120,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 48,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "llama": GROUPED,
    "mistral": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 16},
    "gemma2": GROUPED | {"head_dim": 8},
}


WIDE = GROUPED | {"head_dim": 8}
TOKENS = {"vocab_size": 120, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
GPT = TOKENS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48}
SEQUENCES = TOKENS | {"d_model": 32, "decoder_start_token_id": 3}
BART = SEQUENCES | {
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 48,
}
T5 = SEQUENCES | {"d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4}
EXPERTS = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
XLM = TOKENS | {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 48}
MODERN = PLAIN | {"global_attn_every_n_layers": 2, "cls_token_id": 2, "sep_token_id": 3}
FALCON = PLAIN | {"ffn_hidden_size": 64}

MORE: dict[str, dict[str, Any]] = {
    "albert": PLAIN | {"embedding_size": 16, "num_hidden_groups": 2},
    "arcee": WIDE,
    "bart": BART,
    "big_bird": PLAIN | {"attention_type": "original_full"},
    "biogpt": PLAIN,
    "bloom": TOKENS | {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "convbert": PLAIN | {"embedding_size": 32, "head_ratio": 2, "conv_kernel_size": 3},
    "ctrl": GPT | {"dff": 64},
    "data2vec-text": PLAIN,
    "deberta": PLAIN | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "ernie": PLAIN,
    "esm": PLAIN | {"position_embedding_type": "rotary", "mask_token_id": 4},
    "eurobert": GROUPED | {"mask_token_id": 4},
    "exaone4": WIDE,
    "falcon": FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "flaubert": XLM,
    "funnel": TOKENS
    | {"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "block_sizes": [1, 2]},
    "gemma": WIDE,
    "gemma3_text": WIDE,
    "glm": WIDE,
    "glm4": WIDE,
    "gpt_bigcode": GPT | {"multi_query": True},
    "gpt_neo": PLAIN
    | {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gpt_neox": PLAIN,
    "gpt_oss": WIDE | {"num_local_experts": 2, "num_experts_per_tok": 1},
    "gptj": GPT | {"rotary_dim": 4},
    "gte": PLAIN,
    "helium": WIDE,
    "jina_embeddings_v3": PLAIN,
    "longformer": PLAIN | {"attention_window": 4, "sep_token_id": 3},
    "luke": PLAIN | {"entity_vocab_size": 5, "entity_emb_size": 16},
    "mbart": BART,
    "megatron-bert": PLAIN,
    "ministral": WIDE,
    "ministral3": WIDE,
    "mixtral": GROUPED | {"num_local_experts": 2, "num_experts_per_tok": 1},
    "mobilebert": PLAIN
    | {
        "embedding_size": 16,
        "true_hidden_size": 16,
        "intra_bottleneck_size": 16,
        "num_feedforward_networks": 1,
    },
    "modernbert": MODERN,
    "modernbert-decoder": MODERN,
    "mpt": TOKENS | {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 48},
    "mt5": T5,
    "nemotron": WIDE,
    "nomic_bert": PLAIN,
    "nystromformer": PLAIN
    | {"num_landmarks": 64, "segment_means_seq_len": 64, "conv_kernel_size": 3},
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "olmo3": GROUPED,
    "openai-gpt": GPT,
    "opt": TOKENS
    | {
        "hidden_size": 32,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 48,
    },
    "persimmon": PLAIN,
    "phi": PLAIN,
    "phi3": GROUPED,
    "phimoe": GROUPED | {"num_local_experts": 2, "num_experts_per_tok": 1},
    "plbart": BART,
    "qwen2_moe": GROUPED | EXPERTS,
    "qwen3_moe": WIDE | EXPERTS,
    "rembert": PLAIN | {"input_embedding_size": 16, "output_embedding_size": 16},
    "roberta-prelayernorm": PLAIN,
    "roc_bert": PLAIN | {"enable_pronunciation": False, "enable_shape": False},
    "roformer": PLAIN | {"embedding_size": 32},
    "seed_oss": WIDE,
    "smollm3": GROUPED,
    "stablelm": GROUPED,
    "starcoder2": GROUPED,
    "t5": T5,
    "umt5": T5,
    "xlm": XLM,
    "xlm-roberta-xl": PLAIN,
    "xlnet": TOKENS | {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "xmod": PLAIN | {"languages": ["en_XX"], "default_language": "en_XX"},
}
"""Families with nothing new but their names: the tests of every step run on ``CONFIGS``."""

ALL = CONFIGS | MORE

OLD_FALCON = {"new_decoder_architecture": False, "num_kv_heads": None}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon, one key": ("falcon", OLD_FALCON | {"multi_query": True}),
    "falcon, a key a head": ("falcon", OLD_FALCON | {"multi_query": False}),
    "gpt_bigcode, a key a head": ("gpt_bigcode", {"multi_query": False}),
    "gemma2, one key": ("gemma2", {"num_key_value_heads": 1}),
    "phi3, a key a head": ("phi3", {"num_key_value_heads": 4}),
    "phi, norms": ("phi", {"qk_layernorm": True}),
    "deberta, no positions": ("deberta", {"relative_attention": False}),
    "t5, gated": ("t5", {"feed_forward_proj": "gated-gelu"}),
    "esm, learned positions": ("esm", {"position_embedding_type": "absolute"}),
    "modernbert, mean": ("modernbert", {"classifier_pooling": "mean"}),
    "albert, one layer for all": ("albert", {"num_hidden_groups": 1}),
    "luke, plain": ("luke", {"use_entity_aware_attention": False}),
}
"""Other layouts: name of the family, and what of its configuration is another."""
