from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import CPU, sentences
from headsweep import FineTune, Gradient, Plan, Sources, UserError, purify
from headsweep.export import MANIFEST, check_free, drafted, verify


@pytest.fixture
def purified(trained_folder, tmp_path):
    data = Sources(sentences(60), sentences(40, seed=5))
    plan = Plan(max_drop=0.3, heal=FineTune(1, 1e-3), runtime=CPU)
    return purify(trained_folder, data, Gradient(step=2), plan).save(tmp_path / "out")


def failed(folder):
    return [check.what for check in verify(folder) if not check.passed]


def test_a_written_folder_verifies(purified):
    assert failed(purified) == []


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
    assert failed(purified) == ["labels are those noted"]
    for path in purified.glob("*token*"):
        path.unlink()
    assert failed(purified) == ["labels are those noted", "the tokenizer loads"]


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
        with pytest.raises(UserError, match="No space left"):
            write()
    assert (out / MANIFEST).read_text() == old
    assert list(tmp_path.iterdir()) == [out]
    write()
    assert (out / MANIFEST).read_text() == new
    assert list(tmp_path.iterdir()) == [out]


def test_saving_a_model_whose_copy_differs_is_refused(trained_folder, tmp_path, monkeypatch):
    import headsweep.pipeline as module

    data = Sources(sentences(60), sentences(40, seed=5))
    done = purify(trained_folder, data, Gradient(step=2), Plan(0.3, heal=FineTune(0), runtime=CPU))
    real = module.reload

    def tampered(folder):
        model = real(folder)
        with torch.no_grad():
            model.classifier.bias += 1
        return model

    monkeypatch.setattr(module, "reload", tampered)
    with pytest.raises(UserError, match="other logits when loaded again"):
        done.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
