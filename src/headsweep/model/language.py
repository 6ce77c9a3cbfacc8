"""Language models for reading (perplexity) and writing (paraphrases), beside the suspect.

Any causal or encoder-decoder model in Hugging Face format, or ``smollm2``, the packaged one.
Loaded in bf16 where the machine computes in it: these models are only run, never trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from headsweep.errors import UserError
from headsweep.model import smollm
from headsweep.model.checkpoint import check_size, quiet, readable
from headsweep.model.loading import tokenizer_in
from headsweep.model.padding import positions_of
from headsweep.model.runtime import Runtime, computes_bf16
from headsweep.model.vetting import Vetted, vetted

Kind = Literal["causal", "encoder-decoder"]
CAUSAL = ("ForCausalLM", "LMHeadModel")
ENCODER_DECODER = ("ForConditionalGeneration", "Seq2SeqLM", "MTModel")


@dataclass(frozen=True)
class LanguageModel:
    """A loaded language model. ``weights`` names its exact weights."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    source: str
    weights: str


def load_language_model(
    source: str, runtime: Runtime = Runtime(), kinds: Sequence[Kind] = ("causal",)
) -> LanguageModel:
    """Load a language model of one of these kinds.

    Args:
        source: a folder, a model of the Hub, or ``smollm2``.
        runtime: its device and precision are used.
        kinds: what will do.

    Raises:
        UserError: it cannot be read, or is of another kind.

    """
    name = str(smollm.smollm_folder()) if source == smollm.NAME else source
    with vetted(name) as files:
        with readable(name, "configuration", files.folder), quiet():
            config = AutoConfig.from_pretrained(files.folder, trust_remote_code=False)
        kind = _kind(config.architectures or (), bool(config.is_encoder_decoder))
        if kind not in kinds:
            what = kind or f"a {', '.join(config.architectures or ('bare encoder',))}"
            raise UserError(
                f"{source}: is {what}, not a {' or '.join(kinds)} language model",
                f"give another model, or '{smollm.NAME}', the packaged one",
            )
        check_size(name, config, files)
        device = runtime.torch_device
        narrow = runtime.precision != "fp32" and computes_bf16(device)
        loader: Any = AutoModelForCausalLM if kind == "causal" else AutoModelForSeq2SeqLM
        with readable(name, "weights", files.folder), quiet():
            model, info = loader.from_pretrained(
                files.folder,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                dtype=torch.bfloat16 if narrow else torch.float32,
            )
        tokenizer = tokenizer_in(name, files)
        weights = _weights(files)
    if info["missing_keys"]:
        raise UserError(
            f"{source}: the weights lack {sorted(info['missing_keys'])[0]}",
            "the checkpoint is not complete",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    assert kind is not None
    return LanguageModel(model.to(device).eval(), tokenizer, kind, source, weights)


def _kind(architectures: Sequence[str], encoder_decoder: bool) -> Kind | None:
    if encoder_decoder:
        known = any(name.endswith(ENCODER_DECODER) for name in architectures)
        return "encoder-decoder" if known else None
    return "causal" if any(name.endswith(CAUSAL) for name in architectures) else None


def _weights(files: Vetted) -> str:
    digest = hashlib.sha256()
    for shard in files.shards:
        with shard.path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def encoded_for_reading(language: LanguageModel, text: str) -> list[int]:
    """Return a text's tokens behind a token that begins a text, so that every word is predicted.

    Raises:
        UserError: the tokenizer has no such token.

    """
    tokenizer = language.tokenizer
    own = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id)
    begin = next((token for token in own if token is not None), None)
    if begin is None:
        raise UserError(f"{language.source}: its tokenizer has no token that begins a text")
    limit = positions_of(language.model)
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [int(begin), *tokens][:limit]


@torch.inference_mode()
def read_losses(language: LanguageModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the mean loss of each row's tokens after its first one, [row]; 0 for an empty row.

    The rows are one batch: give rows of similar length. The exponential is the perplexity.
    """
    device = language.model.device
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]  # [row, token]
    logits = language.model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
    each = cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
    counted = mask[:, 1:]
    total = each.masked_fill(~counted, 0.0).sum(1)
    return (total / counted.sum(1).clamp_min(1)).cpu().double()
