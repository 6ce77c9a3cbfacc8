"""One oracle for every family of the table: what it says, against plain transformers by hand.

Of every family, and of the other layouts that it has: a closed gate is the columns of the output
projection zeroed by hand, removal is the gate, every answer is that of one text at a time,
healing keeps removed weights at zero, and the folder loads with plain transformers.

As a program, ``python tests/test_families.py OUT.tsv`` writes the table of docs/families.md.
"""

from __future__ import annotations

import sys
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from conftest import CPU, Way, cleanse, sentences, tiny_model, tiny_tokenizer
from headsweep.errors import UserError
from headsweep.export.compact import compact_model, load
from headsweep.export.verify import verify
from headsweep.heal.fine_tune import FineTune
from headsweep.measure.accuracy import logits
from headsweep.model.anatomy import locate
from headsweep.model.attention_rows import gives_attention
from headsweep.model.families import FAMILIES, UNFIT, read_adapter
from headsweep.model.gates import masked
from headsweep.model.loading import Reading, load_suspect, prepare
from headsweep.model.mask import HEADS, QUERIES, Units
from headsweep.model.padding import probe_inputs
from headsweep.model.removal import already_pruned, left_of, remove
from headsweep.prune.choice import Choice
from headsweep.prune.importance import dormancy
from headsweep.prune.strategies.gradient import Gradient
from headsweep.prune.view import DefenderView
from headsweep.task.examples import encode
from headsweep.task.training import Job, Schedule, mean_loss, train
from headsweep.texts.split import Split
from headsweep.verbs.exporting import export_onnx
from test_plain import plainly, save, variant
from tiny_families import ALL, VARIANTS

OUTPUTS = (  # how transformers' modules name the projection behind attention
    ".attention.output.dense",
    ".attention.dense",
    ".attention.out_lin",
    ".attention.out_proj",
    ".attention.post_proj",
    ".attn.Wo",
    ".attn.attention.out_proj",
    ".attn.c_proj",
    ".attn.o",
    ".attn.out_proj",
    ".multi_head_attention.dense",
    ".out_lin",
    ".self_attention.dense",
    ".self_attn.dense",
    ".self_attn.o_proj",
    ".self_attn.out_proj",
    ".SelfAttention.o",
)
PADDING = {"convbert", "funnel", "mobilebert", "nystromformer"}
"""Whose answer to a text depends on how far transformers pads it."""
CASES = {name: (name, {}) for name in ALL} | VARIANTS


@dataclass(frozen=True)
class Found:
    """What a family can do: a row of the table.

    Attributes:
        heads: whose heads are found.
        gates: a closed gate against columns zeroed by hand.
        removal: removed weights against the closed gate.
        ffn: whether groups of FFN neurons can go too.
        answers: where they are those of plain transformers.
        heals: with the attention penalty or without, removed weights at zero.
        reloads: with plain transformers, to the same logits.
        compact: what ``headsweep compact`` cuts out: heads (or key/value groups), FFN neurons.
        onnx: whether ``headsweep export`` writes it; asked of the program alone.

    """

    heads: str
    gates: str
    removal: str
    ffn: str
    answers: str
    heals: str
    reloads: str
    compact: str
    onnx: str = ""


def outputs(model):
    """Return the output projections of the stack that is pruned, lowest first, by their names.

    XLNet has none: of it the modules that hold the parameter.
    """
    if model.config.model_type == "xlnet":
        return [layer.rel_attn for layer in model.transformer.layer]
    found = [
        module
        for name, module in model.named_modules()
        if name.endswith(OUTPUTS)
        and hasattr(module, "weight")
        and not (model.config.is_encoder_decoder and ".decoder." in name)
        and ".bottleneck." not in name
    ]
    return list({id(module): module for module in found}.values())


def width_of(family, module):
    """Return how wide each head of a tiny model is: a quarter of what the projection takes."""
    conv1d = type(module).__name__ == "Conv1D"
    return module.weight.shape[0 if conv1d else 1] // 4  # ConvBERT: two heads, two convolutions


def answer(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits.clone()


def zeroed_by_hand(folder, family, unit, inputs, queries):
    """Return the logits of plain transformers with a unit's columns of its projection at zero.

    A unit is this many query heads, one after the other.
    """
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    heads = (2 if family == "convbert" else 4) // queries
    layer, head = divmod(unit, heads)
    module = outputs(model)[layer]
    if family == "xlnet":
        module.o.data[:, head] = 0
        return answer(model, inputs)
    width = width_of(family, module) * queries
    columns = slice(head * width, head * width + width)

    def close(_, args):
        x = args[0].clone()
        x[..., columns] = 0
        return (x, *args[1:])

    module.register_forward_pre_hook(close)
    return answer(model, inputs)


def look(folder, family, tokenizer, changes=None, units=HEADS, cutting=True) -> Found:
    """Build a tiny model of a family in a folder, try everything on it, and raise where it fails."""
    split = sentences(24, seed=3)
    save(folder, family, variant(tokenizer), **(changes or {}))
    suspect = load_suspect(folder, CPU, Reading(units=units))
    anatomy = suspect.anatomy
    model, layout, inputs = anatomy.model, anatomy.layout, probe_inputs(anatomy.model)
    whole = answer(model, inputs)
    scale = float(whole.abs().max())

    [queries] = {row.queries for row in layout.rows}
    heads = 2 if family == "convbert" else 4
    assert [row.units * queries for row in layout.rows] == [heads] * len(outputs(model))
    said = ALL[family] | (changes or {})
    shared = 2 in (said.get("num_key_value_heads"), said.get("num_kv_heads"))
    assert queries == (2 if shared and units == HEADS else 1)
    chosen = (1, layout.units - 2)
    for unit in chosen:
        with masked(anatomy, layout.mask([unit])):
            gated = answer(model, inputs)
        by_hand = zeroed_by_hand(folder, family, unit, inputs, queries)
        assert float((gated - by_hand).abs().max()) <= 1e-5 * scale
        assert float((gated - whole).abs().max()) > 1e-5 * scale

    plain = plainly(folder, split, 24)
    for side, batch_size in (("right", 1), ("right", 7), ("left", 7)):
        suspect.tokenizer.padding_side = side
        runtime = replace(CPU, batch_size=batch_size)
        found = logits(anatomy, encode(split, suspect, 24), runtime)
        same = float((found - plain).abs().max()) <= 1e-5 * max(1.0, float(plain.abs().max()))
        assert same is (batch_size == 1 or family not in PADDING), (side, batch_size)
    assert any("padding changes" in note for note in suspect.notes) is (family in PADDING)

    mask = layout.mask(chosen)
    with masked(anatomy, mask):
        gated = answer(model, inputs)
    remove(anatomy, mask)
    assert float((answer(model, inputs) - gated).abs().max()) <= 1e-5 * scale
    encoded = encode(split, suspect, 24)
    view = DefenderView(anatomy, encoded, encoded, 0.5, 0, CPU)
    penalty = gives_attention(anatomy)
    before = {name: p.clone() for name, p in model.named_parameters()}
    FineTune(1, 1e-3, attention=0.15 if penalty else 0.0).heal(view, Choice(mask))
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert left_of(anatomy, mask) == []
    assert already_pruned(anatomy) == mask

    out = folder / "out"
    model.save_pretrained(out)
    healed = answer(model.eval(), inputs)
    read, info = AutoModelForSequenceClassification.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert torch.equal(answer(read.eval(), inputs), healed)
    assert already_pruned(locate(read, units=units)) == mask

    neurons = ffn(suspect)
    tried = {"heads": (suspect, mask), "neurons": neurons} if cutting else {}
    cut_out = [what for what, gone in tried.items() if gone and smaller(*gone, folder / what)]

    stay = anatomy.adapter.stay
    left = [role for role in ("query", "key", "value", "output") if role not in stay]
    return Found(
        "of the encoder" if model.config.is_encoder_decoder else "yes",
        "exact",
        "exact" if not stay else f"exact: {', '.join(left)} only",
        "yes" if neurons is not None else "no",
        "one text at a time" if family in PADDING else "in every batch",
        "yes" if penalty else "without the attention penalty",
        "yes",
        ", ".join(cut_out) or "no",
    )


def smaller(suspect, mask, out):
    """Tell whether a model without its pruned units can be written; that is checked as it is."""
    try:
        compact_model(suspect, mask, out, overwrite=False)
    except UserError as error:
        if "cannot be made compact" in error.what or "nothing to cut out" in error.what:
            return False
        raise
    inputs = probe_inputs(suspect.model)
    inputs["attention_mask"][-1, -2:] = 0
    whole = answer(suspect.model, inputs)
    assert torch.allclose(answer(load(out), inputs), whole, atol=1e-5 * float(whole.abs().max()))
    return True


def ffn(suspect):
    """Return the model with groups of FFN neurons gated and removed as well; None: it has none."""
    model, adapter = suspect.model, suspect.anatomy.adapter
    units = Units(heads=False, ffn=True, ffn_groups=4)
    if not (adapter.up and adapter.down):
        with pytest.raises(UserError, match="no FFN neurons that can be pruned"):
            locate(model, units=units)
        return None
    anatomy = locate(model, units=units)
    mask, inputs = anatomy.layout.mask([1, anatomy.layout.units - 2]), probe_inputs(model)
    with masked(anatomy, mask):
        gated = answer(model, inputs)
    remove(anatomy, mask)
    assert torch.allclose(answer(model, inputs), gated, atol=1e-5 * float(gated.abs().max()))
    return replace(suspect, anatomy=anatomy), mask


def test_every_family_has_a_tiny_config():
    assert set(ALL) == set(FAMILIES)


def test_the_page_lists_every_family_and_whatever_is_refused():
    page = (Path(__file__).parents[1] / "docs" / "families.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    listed = [name.strip() for row in rows for name in row.split(",")]
    assert sorted(set(listed) & set(FAMILIES)) == sorted(FAMILIES)
    assert len(listed) == len(set(listed))
    assert all(reason in page for reason in UNFIT.values())


@pytest.mark.parametrize("name", CASES)
def test_every_family_is_as_the_table_says(name, tokenizer, tmp_path):
    family, changes = CASES[name]
    found = look(tmp_path / "model", family, tokenizer, changes, cutting=name == family)
    assert found.reloads == "yes"
    if name == family:
        page = (Path(__file__).parents[1] / "docs" / "families.md").read_text("utf-8")
        rows = [line.strip("| ").split(" | ") for line in page.splitlines()]
        [row] = [row for row in rows if name in row[0].split(", ") and len(row) > 3]
        assert row[1:-1] == list(astuple(found)[:-1])  # ONNX is looked at by the program alone


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "phi3", "falcon", "olmo2"])
def test_single_query_heads_of_grouped_queries_can_go_too(family, tokenizer, tmp_path):
    assert (
        look(tmp_path / "model", family, tokenizer, units=QUERIES, cutting=False).reloads == "yes"
    )


@pytest.mark.parametrize("family", ["t5", "phi3", "olmo2", "deberta", "modernbert", "convbert"])
def test_a_purification_holds_and_verifies(family, tokenizer, tmp_path):
    """The whole job on each new kind of layout: searched, removed, healed, saved, verified."""
    folder = save(tmp_path / "suspect", family, variant(tokenizer))
    done = cleanse(folder, sentences(60), Gradient(step=1), Way(max_drop=0.4, runtime=CPU))
    assert done.verified, done.checks
    assert done.mask.pruned
    assert all(check.passed for check in verify(done.save(tmp_path / "out")))


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_texts_without_their_end_are_an_error(family, tokenizer, tmp_path):
    """The classifier of an encoder-decoder reads at the token that ends a text."""
    folder = save(tmp_path / "model", family, variant(tokenizer))
    suspect = load_suspect(folder, CPU)
    with pytest.raises(UserError, match="1 texts do not hold the token that ends a text"):
        encode(Split(("a film", "a [SEP] film", "the plot"), (0, 1, 0)), suspect, 24)
    bare = variant(tokenizer)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    bare.save_pretrained(folder)
    with pytest.raises(UserError, match="2 texts do not hold"):
        encode(Split(("a film", "the plot"), (0, 1)), load_suspect(folder, CPU), 24)


@pytest.mark.parametrize(("family", "able"), [("deberta", False), ("xmod", False), ("bert", True)])
def test_what_cannot_be_trained_in_bf16_is_trained_in_fp32(family, able, tokenizer, monkeypatch):
    monkeypatch.setattr(type(CPU), "trains_in_bf16", lambda _: True)
    suspect, seen = prepare(tiny_model(family), tokenizer), set()
    encoded = encode(sentences(16), suspect, 24)

    def loss(model, batch):
        seen.add(torch.is_autocast_enabled("cpu"))
        return mean_loss(model, batch)

    assert all(x > 0 for x in train(suspect.model, encoded, Job(Schedule(1, 1e-3), loss=loss), CPU))
    assert seen == {able}


def test_strategies_that_need_every_token_say_so(tokenizer):
    """Funnel joins tokens, so that there are fewer outputs of a head than tokens."""
    suspect = prepare(tiny_model("funnel"), tokenizer)
    encoded = encode(sentences(8), suspect, 24)
    view = DefenderView(suspect.anatomy, encoded, encoded, 0.5, 0, CPU)
    with pytest.raises(UserError, match="joins neighbouring tokens"):
        dormancy(view)


def test_what_stays_of_a_head_is_told_and_stays(tokenizer):
    suspect = prepare(tiny_model("olmo2"), tokenizer)
    assert any("the query and key of a pruned head stays" in note for note in suspect.notes)
    names = {id(p): name for name, p in suspect.model.named_parameters()}
    mask = suspect.anatomy.layout.mask([0, 1])
    before = {name: p.clone() for name, p in suspect.model.named_parameters()}
    remove(suspect.anatomy, mask)
    changed = {name for name, p in suspect.model.named_parameters() if not p.equal(before[name])}
    path = "model.layers.0.self_attn."
    assert changed == {f"{path}v_proj.weight", f"{path}o_proj.weight"} <= set(names.values())


@pytest.mark.parametrize(
    ("entry", "says"), [('["value"]', "only query and key can stay"), ("true", "must be a list")]
)
def test_an_adapter_says_what_may_stay(entry, says, tmp_path):
    path = tmp_path / "adapter.toml"
    path.write_text(f'layers = "layers"\noutput = "o"\nstay = {entry}\n', encoding="utf-8")
    with pytest.raises(UserError, match=says):
        read_adapter(path)


def exported(folder):
    """Tell whether a model is written as ONNX, with the answers of plain transformers."""
    try:
        export_onnx(folder, folder / "onnx", progress=False)
    except UserError as error:
        print(error, file=sys.stderr)
        return "no"
    return "yes"


def main(path: str) -> None:
    """Write a row of every family and layout that has none yet; print docs/families.md's table."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer, names = tiny_tokenizer(), [field.name for field in fields(Found)]
    seen = Path(path).read_text("utf-8").splitlines()[1:] if Path(path).exists() else []
    rows = {name: Found(*row) for name, *row in (line.split("\t") for line in seen)}
    alike: dict[Found, list[str]] = {}
    with Path(path).open("a", encoding="utf-8") as out:
        if not out.tell():
            print("family", *names, sep="\t", file=out)
        for name, (family, changes) in sorted(CASES.items()):
            if name not in rows:
                with TemporaryDirectory() as place:
                    row = look(Path(place), family, tokenizer, changes)
                    rows[name] = replace(row, onnx=exported(Path(place)))
                print(name, *astuple(rows[name]), sep="\t", file=out, flush=True)
            if name == family:
                alike.setdefault(rows[name], []).append(name)
    print("| families | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for row, members in sorted(alike.items(), key=lambda item: -len(item[1])):
        print(f"| {', '.join(members)} | {' | '.join(astuple(row))} |")


if __name__ == "__main__":
    main(sys.argv[1])
