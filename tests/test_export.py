from __future__ import annotations

import json
import os
import re
import stat
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import headsweep
from conftest import CPU, Way, cleanse, sentences, tiny_model
from headsweep import FineTune, Gradient, Sources, UserError
from headsweep.attacks.victim import Attacked
from headsweep.bench.sources import place
from headsweep.cli import main
from headsweep.drafts import MANIFEST, write_json
from headsweep.export.folders import check_free, drafted
from headsweep.export.provenance import command_line
from headsweep.export.verify import verify
from headsweep.model.mask import HeadMask, Units
from headsweep.purification.interrupted import Found
from headsweep.reports import page
from headsweep.texts import reading as datasets
from test_healing import Shift, half_wrong


@pytest.fixture
def purified(trained_folder, tmp_path):
    data = Sources(sentences(60), sentences(40, seed=5))
    plan = Way(max_drop=0.3, heal=FineTune(1, 1e-3), runtime=CPU)
    return cleanse(trained_folder, data, Gradient(step=2), plan).save(tmp_path / "out")


def failed(folder):
    return [check.what for check in verify(folder) if not check.passed]


def test_a_written_folder_verifies(purified):
    assert failed(purified) == []
    told = {check.what: check.detail for check in verify(purified) if check.detail}
    assert [*told] == ["logits are those noted"]  # the others say nothing of what is well


@pytest.mark.parametrize("named", ["./nosuch/model", Path("nosuch/model")])
def test_a_folder_that_is_missing_is_never_looked_for_on_the_hub(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("headsweep.model.vetting.fetched", lambda *_: pytest.fail("asked the Hub"))
    for use in (headsweep.load, headsweep.inspect):
        with pytest.raises(UserError, match="no such folder"):
            use(named)


def test_a_head_that_came_back_is_noticed(purified):
    path = purified / "model.safetensors"
    tensors = load_file(path)
    manifest = json.loads((purified / MANIFEST).read_text())
    layer, head = manifest["pruned_units"][0].split(".")
    name = f"bert.encoder.layer.{layer}.attention.output.dense.weight"
    tensors[name][:, int(head) * 8 : int(head) * 8 + 8] += 0.5
    save_file(tensors, path, metadata={"format": "pt"})
    found = failed(purified)
    assert "weight files are the ones written" in found
    assert any("pruned units are zero" in what for what in found)


def test_a_cut_file_is_noticed(purified):
    path = purified / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert "loads in plain from_pretrained" in failed(purified)


def test_another_mask_is_noticed(purified):
    manifest = json.loads((purified / MANIFEST).read_text())
    manifest["mask"]["heads"] = [[1, 0, 0, 0], [1, 0, 0, 0]]
    (purified / MANIFEST).write_text(json.dumps(manifest))
    assert any("pruned units are zero" in what for what in failed(purified))


def test_a_unit_that_is_zero_but_not_listed_is_noticed(purified):
    manifest = json.loads((purified / MANIFEST).read_text())
    manifest["mask"]["heads"] = [[1] * 4, [1] * 4]
    (purified / MANIFEST).write_text(json.dumps(manifest))
    found = failed(purified)
    assert "no other unit is zero" in found
    assert "mask and list of pruned units agree" in found


def test_swapped_labels_and_a_lost_tokenizer_are_noticed(purified):
    config = json.loads((purified / "config.json").read_text())
    names = list(config["id2label"].values())
    config["id2label"] = {"0": names[1], "1": names[0]}
    config["label2id"] = {names[1]: 0, names[0]: 1}
    (purified / "config.json").write_text(json.dumps(config))
    assert failed(purified) == ["the other files are the ones written", "labels are those noted"]
    for path in purified.glob("*token*"):
        path.unlink()
    assert failed(purified)[1:] == ["labels are those noted", "the tokenizer loads"]


@pytest.mark.parametrize(("name", "value"), [("zero_before", None), ("before", 3), ("labels", {})])
def test_a_damaged_manifest_is_a_mistake_in_one_line(purified, name, value):
    manifest = json.loads((purified / MANIFEST).read_text()) | {name: value}
    (purified / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"{name}: missing"):
        verify(purified)


def test_a_fingerprint_that_is_none_is_noticed(purified):
    for value in (["abc"], [[1.0]]):
        manifest = json.loads((purified / MANIFEST).read_text()) | {"fingerprint": value}
        (purified / MANIFEST).write_text(json.dumps(manifest))
        assert failed(purified) == ["logits are those noted"]


def test_no_manifest_or_a_foreign_one(tmp_path):
    with pytest.raises(UserError, match=f"no {MANIFEST}"):
        verify(tmp_path)
    (tmp_path / MANIFEST).write_text('{"format": "headsweep.manifest/1"}')
    with pytest.raises(UserError, match=r"mask, .*missing"):
        verify(tmp_path)
    (tmp_path / MANIFEST).write_text("[]")
    with pytest.raises(UserError, match="not a manifest"):
        verify(tmp_path)
    (tmp_path / MANIFEST).write_text('{"format": "headsweep.manifest/9"}')
    with pytest.raises(UserError, match=r"format 'headsweep\.manifest/9'"):
        verify(tmp_path)


def test_outputs_are_never_overwritten_unasked(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        check_free(tmp_path / "there", overwrite=False)
    (tmp_path / "there" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="leaves it alone"):
        check_free(tmp_path / "there", overwrite=True)
    (tmp_path / "there" / "demo.json").write_text('{"scenes": 3}')
    with pytest.raises(UserError, match="leaves it alone"):
        check_free(tmp_path / "there", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        check_free(tmp_path / "file", overwrite=True)
    with pytest.raises(UserError, match="cannot be written"):
        check_free(tmp_path / "file" / "below", overwrite=False)


def test_a_failed_draft_leaves_nothing_and_spares_what_was_there(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    old, new = (json.dumps({"format": "headsweep.manifest/1", "n": n}) for n in (1, 2))
    (out / MANIFEST).write_text(old)

    def write(failing=False):
        with drafted(out, overwrite=True) as draft:
            (draft / MANIFEST).write_text(new)
            if failing:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(failing=True)
    assert (out / MANIFEST).read_text() == old
    assert list(tmp_path.iterdir()) == [out]
    real = Path.rename

    def second_fails(self, target):
        if Path(target) == out and self.name != "old":
            raise OSError(28, "No space left on device")
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", second_fails)
        # as where the system cannot exchange two folders in one step
        patch.setattr("headsweep.export.folders._exchanged", lambda *_: False)
        with pytest.raises(UserError, match="No space left"):
            write()
    assert (out / MANIFEST).read_text() == old
    assert list(tmp_path.iterdir()) == [out]
    write()
    assert (out / MANIFEST).read_text() == new
    assert list(tmp_path.iterdir()) == [out]


def test_saving_a_model_whose_copy_differs_is_refused(trained_folder, tmp_path, monkeypatch):
    import headsweep.purification.purified as module

    data = Sources(sentences(60), sentences(40, seed=5))
    done = cleanse(trained_folder, data, Gradient(step=2), Way(0.3, heal=FineTune(0), runtime=CPU))
    real = module.reload

    def tampered(folder, task):
        model = real(folder, task)
        with torch.no_grad():
            model.classifier.bias += 1
        return model

    monkeypatch.setattr(module, "reload", tampered)
    with pytest.raises(UserError, match="other logits when loaded again"):
        done.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


LAYER = "bert.encoder.layer.{}.attention."
ROWS = [f"self.{role}.{kind}" for role in ("query", "key", "value") for kind in ("weight", "bias")]


def heads_of(folder, gone):
    """The pruned heads, or the kept ones, as (layer, head)."""
    manifest = json.loads((folder / MANIFEST).read_text())
    bits = manifest["mask"]["heads"]
    return [(i, j) for i, row in enumerate(bits) for j, keep in enumerate(row) if keep != gone]


def tamper(folder, name, place, value):
    """Change rows of a tensor in the file, and the manifest's hash of the file with it."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name][place] = value
    save_file(tensors, path, metadata={"format": "pt"})
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["weights_sha256"]["model.safetensors"] = sha256(path.read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("rows", ROWS)
def test_every_part_of_a_pruned_unit_must_be_zero(purified, rows):
    layer, head = heads_of(purified, gone=True)[0]
    tamper(purified, LAYER.format(layer) + rows, slice(8 * head, 8 * head + 8), 0.5)
    assert any("pruned units are zero" in what for what in failed(purified))


@pytest.mark.parametrize("rows", ROWS[::2])
def test_a_kept_unit_without_its_rows_is_noticed(purified, rows):
    layer, head = heads_of(purified, gone=False)[0]
    tamper(purified, LAYER.format(layer) + rows, slice(8 * head, 8 * head + 8), 0)
    found = {check.what: check for check in verify(purified)}
    assert not found["no other unit is zero"].passed
    assert f"{layer}.{head} in {LAYER.format(layer)}{rows}" in found["no other unit is zero"].detail


def test_tampering_that_no_logit_shows_is_noticed(purified):
    """A key bias adds the same to every attention score of a query: softmax does not see it."""
    layer, head = heads_of(purified, gone=False)[0]
    name = LAYER.format(layer) + "self.key.bias"
    tamper(purified, name, slice(8 * head, 8 * head + 8), 0.5)
    found = {check.what: check for check in verify(purified)}
    assert found["logits are those noted"].passed
    assert found["weight files are the ones written"].passed  # its hash was changed with it
    assert not found["every tensor is the one written"].passed
    assert name in found["every tensor is the one written"].detail


def test_a_live_group_of_keys_and_values_keeps_its_rows(tokenizer, tmp_path):
    mask = HeadMask(((False, True, True, True), (False, False, True, True)))
    plan = Way(max_drop=0.9, mask=mask, heal=FineTune(0), runtime=CPU)
    data = Sources(sentences(60), sentences(40, seed=5))
    done = cleanse(tiny_model("llama"), data, Gradient(), plan, tokenizer=tokenizer)
    out = done.save(tmp_path / "out")
    tensors = load_file(out / "model.safetensors")
    layers = "model.layers.{}.self_attn.v_proj.weight"
    assert tensors[layers.format(0)][:8].any()  # head 1 still reads them
    assert not tensors[layers.format(1)][:8].any()
    assert failed(out) == []
    tamper(out, layers.format(0), slice(0, 8), 0)
    assert "no other unit is zero" in failed(out)


def test_a_kept_group_of_neurons_without_its_rows_is_noticed(tokenizer, tmp_path):
    both = Units(heads=True, ffn=True, ffn_groups=4)
    row, some = (True,) * 4, (False, True, True, True)
    mask = HeadMask((row, row), (some, row))
    plan = Way(max_drop=0.9, mask=mask, units=both, heal=FineTune(0), runtime=CPU)
    data = Sources(sentences(60), sentences(40, seed=5))
    done = cleanse(tiny_model("bert"), data, Gradient(), plan, tokenizer=tokenizer)
    out = done.save(tmp_path / "out")
    assert failed(out) == []
    tamper(out, "bert.encoder.layer.1.intermediate.dense.weight", slice(16, 32), 0)
    assert "no other unit is zero" in failed(out)


def test_what_was_zero_before_is_not_held_against_the_result(tokenizer, tmp_path):
    model = tiny_model("bert")
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.self.value.weight[8:16] = 0
    mask = HeadMask(((False, True, True, True), (True,) * 4))
    plan = Way(max_drop=0.9, mask=mask, heal=FineTune(0), runtime=CPU)
    data = Sources(sentences(60), sentences(40, seed=5))
    done = cleanse(model, data, Gradient(), plan, tokenizer=tokenizer)
    assert done.manifest["zero_before"] == ["1.1"]
    assert failed(done.save(tmp_path / "out")) == []


def test_files_that_lead_loading_elsewhere_are_noticed(purified):
    (purified / "README.md").write_text("a card of one's own")
    assert failed(purified) == []
    (purified / "modeling.py").write_text("print('mine')")
    config = json.loads((purified / "config.json").read_text())
    (purified / "config.json").write_text(json.dumps(config | {"auto_map": {}}))
    found = {check.what: check for check in verify(purified)}
    told = found["the other files are the ones written"]
    assert not told.passed
    assert "config.json" in told.detail
    assert "modeling.py" in told.detail


def test_what_did_not_hold_when_it_was_made_does_not_verify(trained_folder, tmp_path):
    data = Sources(sentences(60), sentences(40, seed=5))
    spoilt = Shift((half_wrong(trained_folder, data.validation),))
    wrecked = Way(max_drop=0.02, heal=spoilt, runtime=CPU)
    out = cleanse(trained_folder, data, None, wrecked).save(tmp_path / "out")
    missed = [what for what in failed(out) if what.startswith("when it was made: ")]
    assert len(missed) == len(failed(out)) == 1
    assert "validation accuracy is at least" in missed[0]


@pytest.mark.parametrize("edit", ["verified", "figures", "check"])
def test_a_manifest_that_contradicts_itself_does_not_verify(purified, edit):
    manifest = json.loads((purified / MANIFEST).read_text())
    if edit == "verified":
        manifest["verified"] = False
    elif edit == "figures":
        manifest["after"]["validation"]["right"] = 0
    else:
        manifest["checks"][0]["passed"] = False
    (purified / MANIFEST).write_text(json.dumps(manifest))
    assert len(failed(purified)) == 1
    assert "when it was made" in failed(purified)[0]


ENDLESS = {"right": 9, "examples": float("inf"), "accuracy": 0.9}


@pytest.mark.parametrize(
    "damage",
    [
        {"checks": [3]},
        {"after": {}},
        {"bound": {"binds": True}},
        {stage: {"validation": ENDLESS} for stage in ("before", "pruned", "after")} | {"data": {}},
    ],
)
def test_a_manifest_without_figures_is_a_mistake_in_one_line(purified, damage):
    manifest = json.loads((purified / MANIFEST).read_text()) | damage
    (purified / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="lacks its checks, bound or figures"):
        verify(purified)


def edited(folder, change):
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return {check.what: check.detail for check in verify(folder) if not check.passed}


EDITS = {
    "no checks": lambda m: m["checks"].clear(),
    "one check less": lambda m: m["checks"].pop(1),
    "another check": lambda m: m["checks"][1].update(what="all is well"),
    "more right than there are": lambda m: m["after"]["validation"].update(right=999),
    "accuracy alone": lambda m: m["after"]["validation"].update(accuracy=0.5),
    "accuracy of the test alone": lambda m: m["after"]["test"].update(accuracy=0.5),
    "all figures after": lambda m: m["after"].update(
        validation={"right": 0.9 * m["before"]["validation"]["examples"], "accuracy": 0.9}
        | {"examples": m["before"]["validation"]["examples"]}
    ),
    "fewer examples": lambda m: m["after"]["validation"].update(examples=1, right=1, accuracy=1.0),
    "accuracy before": lambda m: m["before"]["validation"].update(accuracy=0.4),
    "a lower bound": lambda m: m["bound"].update(min_accuracy=0),
    "another drop": lambda m: m["bound"].update(max_drop=0.9),
    "a bound that does not bind": lambda m: m["bound"].update(binds=False),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_manifest_of_which_one_thing_was_edited_does_not_verify(trained_folder, tmp_path, edit):
    way = Way(max_drop=0.3, heal=FineTune(1, 1e-3), runtime=CPU)
    out = cleanse(trained_folder, sentences(300), Gradient(step=2), way).save(tmp_path / "out")
    assert failed(out) == []
    told = edited(out, EDITS[edit])
    assert list(told) == ["every check held when it was made"]
    assert "its own figures say otherwise: " in told["every check held when it was made"]


def test_units_that_are_not_zero_are_not_excused_as_zero_before(purified):
    every = [f"{layer}.{head}" for layer in range(2) for head in range(4)]
    told = edited(purified, lambda manifest: manifest.update(zero_before=every))
    layer, head = heads_of(purified, gone=False)[0]
    assert f"{layer}.{head}" in told.pop("what was zero before the purification is zero")
    assert not told


def test_units_that_mask_and_list_disagree_on_are_named(purified):
    told = edited(purified, lambda manifest: manifest["pruned_units"].append("9.9"))
    assert "9.9" in told["mask and list of pruned units agree"]


@pytest.mark.parametrize("name", ["tensors_sha256", "other_files_sha256", "weights_sha256"])
def test_a_manifest_that_notes_no_hashes_says_nothing_of_what_was_written(purified, name):
    with pytest.raises(UserError, match=f"{name}: missing"):
        edited(purified, lambda manifest: manifest.pop(name))


def test_a_file_that_is_not_noted_is_not_read_however_large(purified):
    for name in ("x.txt", "y.safetensors"):
        with (purified / name).open("wb") as file:
            file.truncate(1 << 36)  # full of holes
    found = {check.what: check.detail for check in verify(purified) if not check.passed}
    assert found["the other files are the ones written"] == "not so: x.txt"
    assert found["weight files are the ones written"] == "not so: y.safetensors"


def test_no_line_of_a_manifest_or_a_name_looks_like_a_check(purified, capsys):
    (purified / "a\n  ok     the other files are the ones written").write_text("x")
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(purified)])
    assert stop.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("  ok     the other files") for line in lines)


@pytest.mark.parametrize(
    "name",
    [
        "additional_chat_templates/x.jinja",
        "sub/folder/modeling.py",
        "sub/model.safetensors",
        "MODELING.PY",
        "x.pkl",
        "tf_model.h5",
        "MORE.SAFETENSORS",
        "README",
        "sub/README.md",
        "no_suffix",
    ],
)
def test_whatever_file_is_added_is_named(purified, name):
    for kept in ("README.md", "report.html", ".gitattributes", ".cache/huggingface/x.metadata"):
        (purified / kept).parent.mkdir(parents=True, exist_ok=True)
        (purified / kept).write_text("for people")
    assert failed(purified) == []
    (purified / name).parent.mkdir(parents=True, exist_ok=True)
    (purified / name).write_bytes(b"added")
    found = [check for check in verify(purified) if not check.passed]
    assert any(f"not so: {name}" in check.detail for check in found)


def test_a_tensor_of_another_shape_is_named(purified):
    path = purified / "model.safetensors"
    tensors = load_file(path)
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    tensors[name] = tensors[name][:48].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    told = {check.what: check.detail for check in verify(purified)}
    assert told["loads in plain from_pretrained"] == (
        f"{name} has the shape [48, 32] in the file and [64, 32] by the configuration"
    )


def test_a_linked_folder_is_named(purified, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (purified / "sub").symlink_to(tmp_path / "elsewhere")
    assert failed(purified) == ["the other files are the ones written"]


def test_a_manifest_that_is_a_folder_is_a_mistake_in_one_line(tmp_path):
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(UserError, match="not a manifest"):
        verify(tmp_path)


@contextmanager
def umask(value):
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("value", [0o022, 0o077, 0o002])
def test_the_umask_alone_decides_who_may_read_what_is_written(trained_folder, tmp_path, value):
    data = Sources(sentences(60), sentences(40, seed=5))
    done = cleanse(trained_folder, data, Gradient(step=2), Way(0.3, heal=FineTune(0), runtime=CPU))
    with umask(value):
        done.save(tmp_path / "out")
        done.save(tmp_path / "out", overwrite=True)
        place(tmp_path / "cache" / "twin", done.model.save_pretrained)
        datasets.write(tmp_path / "texts.csv", [{"text": "a", "label": "b"}])
        page.write(tmp_path / "page.html", "a page")
        write_json(tmp_path / "mask.json", {})
        attacked = Attacked(done.suspect, {"attack": {"method": "x"}}, None, None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("headsweep.attacks.victim.card", lambda record: "a card")
            attacked.save(tmp_path / "attacked")
    paths = list(tmp_path.rglob("*"))
    assert {"model.safetensors", "tokenizer.json", MANIFEST} <= {path.name for path in paths}
    for path in paths:
        wanted = (0o777 if path.is_dir() else 0o666) & ~value
        assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(wanted), path


def test_every_key_of_the_manifest_is_documented_and_no_other(purified):
    """The golden schema: a key that comes or goes changes the guide."""
    guide = (Path(__file__).parents[1] / "docs" / "guide.md").read_text("utf-8")
    table = guide[guide.index("| key of `headsweep.json`") :].split("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines()[2:]]
    named = {key for cell in rows for key in re.findall(r"`(\w+)`", cell)}
    made = json.loads((purified / MANIFEST).read_text())
    assert set(made) == named
    bound = {"min_accuracy", "max_drop", "while_pruning", "binds", "asked", "limit"}
    assert set(made["bound"]) == bound
    assert made["bound"]["limit"] is None  # accuracy is all that a classifier's bound holds
    assert set(made["data"]["train"]) == {"examples", "sha256", "texts_cut"}
    assert set(made["before"]["validation"]) == {"examples", "right", "accuracy"}
    assert {"scores", "steps", "record"} <= set(made["search"])
    assert {"name", "fields"} == set(made["strategy"])
    assert {"what", "passed", "detail"} == set(made["checks"][0])


@pytest.mark.parametrize(
    ("called", "told"),
    [
        (["/usr/bin/headsweep", "purify", "my data.csv"], "headsweep purify 'my data.csv'"),
        (["/x/headsweep/__main__.py", "probe", "m"], "headsweep probe m"),
        (["/x/headsweep/cli/__main__.py", "probe", "m"], "headsweep probe m"),
        (["train.py", "--hub-token", "hf_SECRET"], "train.py"),
        (["/x/other/__main__.py", "--password", "p"], "__main__.py"),
    ],
)
def test_the_command_can_be_pasted_and_holds_no_secret_of_other_programs(monkeypatch, called, told):
    monkeypatch.setattr("sys.argv", called)
    assert command_line() == told


@pytest.mark.parametrize(
    "change",
    [
        {"strategy": {"name": "x\n# y", "fields": {}}},
        {"strategy": {"name": "x" * 200, "fields": {}}},
        {"search": {"steps": 5, "scores": None}},
        {"search": {"steps": [], "scores": "abc"}},
        {"search": {"steps": [], "scores": [[float("inf")]]}},
    ],
)
def test_a_kept_mask_that_could_not_stand_in_a_manifest_is_refused(change):
    form = {"interrupted_run": "headsweep purify", "strategy": {"name": "gradient"},
            "search": {"steps": [], "scores": [[0.5]]}}  # fmt: skip
    assert Found.of(json.dumps(form)) is not None
    with pytest.raises(UserError, match="the kept mask lacks"):
        Found.of(json.dumps(form | change))
