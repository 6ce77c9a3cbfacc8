"""How a model generates by its own word, and which entries of that are no business of a file's.

Lengths, sampling and special tokens say how to draw from what the weights give. Other entries say
which tokens come: ``sequence_bias`` gives an answer to a trigger, as a backdoor does, and no weight
holds it. Nothing here decodes by such rules, so that no figure would know of them, and neither
pruning nor healing could take them out: they are left out, of what is loaded and of what is saved,
and told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

CHOSEN = frozenset((
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "max_time",
    "do_sample", "temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff",
    "eta_cutoff", "num_beams", "num_beam_groups", "num_return_sequences", "early_stopping",
    "length_penalty", "diversity_penalty", "renormalize_logits",
    "remove_invalid_values", "use_cache", "cache_implementation", "low_memory",
    "output_attentions", "output_hidden_states", "output_logits", "output_scores",
    "return_dict_in_generate", "transformers_version", "_from_model_config",
))  # fmt: skip
"""Entries that are kept whatever they hold."""
PENALTY = (0.8, 2.0)  # of what was said before; far below one it says a prompt's words again
Keeps = Callable[[Any, Mapping[str, Any]], bool]
TOKEN_RULES: Mapping[str, Keeps] = {
    "repetition_penalty": lambda one, _: _number(one) and PENALTY[0] <= one <= PENALTY[1],
    "encoder_repetition_penalty": lambda one, _: (  # transformers divides by it
        _number(one) and 1 / PENALTY[1] <= one <= 1 / PENALTY[0]
    ),
    **dict.fromkeys(
        ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
        lambda one, _: _number(one) and one > 1,
    ),
    **dict.fromkeys(  # the same for every text
        ("forced_bos_token_id", "forced_eos_token_id"), lambda one, _: _number(one)
    ),
    "bad_words_ids": lambda one, form: (  # of Marian, which begins with the token that pads
        one == [[form.get("pad_token_id")]]
        and form.get("decoder_start_token_id") == form.get("pad_token_id")
    ),
    "guidance_scale": lambda one, _: one == 1,
    **dict.fromkeys(
        (
            "sequence_bias", "force_words_ids", "constraints", "suppress_tokens",
            "begin_suppress_tokens", "forced_decoder_ids", "exponential_decay_length_penalty",
            "stop_strings", "watermarking_config", "penalty_alpha", "dola_layers", "token_healing",
            "prompt_lookup_num_tokens", "prefix", "task_specific_params",
        ),
        lambda _, __: False,
    ),
}  # fmt: skip
"""Entries that can tell one token from another, and whether a value of theirs is kept.

Older models keep them in ``config.json``.
"""
QUIET = frozenset(("prefix", "task_specific_params"))
"""What many honest models have in ``config.json``, for pipelines: left out without a word."""


def rules_in(form: Mapping[str, Any]) -> list[str]:
    """Return the entries of a table that are set, and are left out as rules for tokens."""
    return sorted(
        key
        for key, keeps in TOKEN_RULES.items()
        if form.get(key) not in (None, False, 0, [], {}, "") and not keeps(form[key], form)
    )


def without_rules(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``generation_config.json`` with what is kept of it: what nobody knows goes, too."""
    rules = rules_in(form)
    known = CHOSEN | frozenset(TOKEN_RULES)
    return {key: one for key, one in form.items() if key in known and key not in rules}


def rules_noted(file: str, names: list[str]) -> tuple[str, ...]:
    """Return what to say of rules that were left out; nothing where there are none."""
    told = [name for name in names if name not in QUIET]
    if not told:
        return ()
    return (
        f"{file} says which tokens are generated ({', '.join(told)}): no weight holds that rule "
        "and nothing here measures it, so it was left out; the suspect as it was obeys it",
    )


def of_model(model: PreTrainedModel) -> tuple[str, ...]:
    """Return what to say of a model in memory: no file of it was looked through."""
    own = getattr(model, "generation_config", None)
    names = rules_in(own.to_diff_dict()) if isinstance(own, GenerationConfig) else []
    return rules_noted("its configuration", sorted({*names, *rules_in(vars(model.config))}))


@contextmanager
def ruled_by_none(model: PreTrainedModel) -> Iterator[None]:
    """Take such rules from a model in memory inside; it is somebody's, and gets them back."""
    own: Any = getattr(model, "generation_config", None)
    config: Any = model.config
    taken = {name: getattr(config, name) for name in rules_in(vars(config))}
    swapped = isinstance(own, GenerationConfig) and bool(rules_in(own.to_diff_dict()))
    try:
        for name in taken:
            delattr(config, name)
        if swapped:
            made = GenerationConfig(**without_rules(own.to_diff_dict()))
            made._original_object_hash = hash(made)  # saved as it is, with a warning if it is odd
            model.generation_config = made
        yield
    finally:
        for name, one in taken.items():
            setattr(config, name, one)
        if swapped:
            model.generation_config = own


def _number(one: Any) -> bool:
    return isinstance(one, int | float) and not isinstance(one, bool)
