"""How a model generates by its own word, and which entries of that are no business of a file's.

Lengths, sampling and special tokens say how to draw from what the weights give. Other entries say
which tokens come: ``sequence_bias`` gives an answer to a trigger, as a backdoor does, and no weight
holds it. Nothing here decodes by such rules, so that no figure would know of them, and neither
pruning nor healing could take them out: they are left out, of what is loaded and of what is saved,
and told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

CHOSEN = frozenset((
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "max_time",
    "do_sample", "temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff",
    "eta_cutoff", "num_beams", "num_beam_groups", "num_return_sequences", "early_stopping",
    "length_penalty", "diversity_penalty", "repetition_penalty", "encoder_repetition_penalty",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "renormalize_logits",
    "remove_invalid_values", "use_cache", "cache_implementation", "low_memory",
    "output_attentions", "output_hidden_states", "output_logits", "output_scores",
    "return_dict_in_generate", "transformers_version", "_from_model_config",
))  # fmt: skip
"""Entries that are kept: none of them knows one token of a text from another."""
TOKEN_RULES = frozenset((
    "sequence_bias", "bad_words_ids", "force_words_ids", "constraints", "suppress_tokens",
    "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids",
    "exponential_decay_length_penalty", "stop_strings", "watermarking_config", "guidance_scale",
    "penalty_alpha", "dola_layers", "token_healing", "prompt_lookup_num_tokens", "prefix",
    "task_specific_params",
))  # fmt: skip
"""The same among the entries of ``config.json``, where older models keep them."""
QUIET = frozenset((
    "forced_bos_token_id", "forced_eos_token_id", "prefix", "task_specific_params",
))  # fmt: skip
"""What many honest models have, too, the same for every text: it is left out without a word."""


def rules_in(form: Mapping[str, Any]) -> list[str]:
    """Return the entries of a ``generation_config.json`` that are worth a word: set, and no use."""
    return sorted(key for key, one in form.items() if key not in CHOSEN | QUIET and one)


def rules_noted(file: str, names: list[str]) -> str:
    """Return what to say of entries that were left out."""
    return (
        f"{file} says which tokens are generated ({', '.join(names)}): no weight holds that rule "
        "and nothing here measures it, so it was left out; the suspect as it was obeys it"
    )


def of_model(model: PreTrainedModel) -> tuple[str, ...]:
    """Return what to say of a model in memory: no file of it was looked through."""
    own = getattr(model, "generation_config", None)
    names = rules_in(own.to_diff_dict()) if isinstance(own, GenerationConfig) else []
    return (rules_noted("its generation_config", names),) if names else ()


def without_rules(own: GenerationConfig) -> GenerationConfig:
    """Return how a model generates, without the entries that are left out."""
    form = own.to_diff_dict()
    if not rules_in(form):
        return own
    made = GenerationConfig(**{key: one for key, one in form.items() if key in CHOSEN})
    made._original_object_hash = hash(made)  # saved as it is, with a warning where it is odd
    return made
