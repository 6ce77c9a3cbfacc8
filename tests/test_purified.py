"""What purify gives: shown in a line and in a notebook, as a table, and uploaded."""

from __future__ import annotations

import builtins
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import RepoUrl
from huggingface_hub.errors import OfflineModeIsEnabled

from conftest import CPU, sentences
from headsweep import FineTune, Gradient, Plan, UserError, compact, purify
from headsweep.drafts import MANIFEST
from headsweep.export.card import model_card
from headsweep.export.probes import probes_told
from headsweep.export.verify import Check, verify
from headsweep.foreign import in_markdown
from headsweep.judge.battery import probe
from headsweep.judge.flipped import Battery
from headsweep.model.loading import load_suspect
from headsweep.texts.reading import write


@pytest.fixture(scope="module")
def done(trained_folder):
    return purify(
        trained_folder,
        sentences(200, seed=2),
        plan=Plan(1, CPU),
        strategy=Gradient(step=2),
        heal=FineTune(0),
        max_drop=0.3,
        progress=False,
    )


def test_a_model_in_memory_is_probed_before_it_is_changed_and_after(trained_folder):
    data, asked = sentences(400, seed=2), {"heal": {"epochs": 1}, "max_drop": 0.3}
    loaded = load_suspect(trained_folder, CPU)
    done = purify(loaded, data, plan=Plan(1, CPU), progress=False, **asked)
    fresh, battery = load_suspect(trained_folder, CPU), Battery(texts=60, seed=1)
    for stage, model in (("before", fresh), ("after", done.suspect)):
        assert done.manifest["probe"][stage] == probe(model, done.held, battery, CPU).to_json()
    assert done.manifest["seconds"]["probe"] > 0
    for line in probes_told(done.manifest):
        assert in_markdown(line) in model_card(done.manifest)
        assert f"probes {line}" in Reader(done._repr_html_()).text
    other = purify(trained_folder, data, plan=Plan(1, CPU), progress=False, probe=False, **asked)
    assert other.mask == done.mask
    assert "probe" not in other.manifest
    assert probes_told(other.manifest) == []
    with pytest.raises(UserError, match="probe"):
        purify(trained_folder, data, probe="perhaps")


def test_a_card_says_no_more_of_probes_and_healings_than_there_was(done):
    """200 rows are too few to probe; of three healings one came to nothing."""
    assert "not_run" in done.manifest["probe"]
    card = model_card(done.manifest)
    assert "not probed" in card
    assert "Only these families were tried" not in card
    members = [{"accuracy": 0.9, "joined": joined} for joined in (True, False, True)]
    fields = done.manifest["heal"]["fields"] | {"epochs": 1.0}
    heal = done.manifest["heal"] | {"members": members, "fields": fields}
    assert "2 of 3 healings averaged" in model_card(done.manifest | {"heal": heal})


def changed(done, **values):
    """Return it with other things in its manifest."""
    return replace(done, manifest=done.manifest | values)


class Reader(HTMLParser):
    """Counts elements, gathers text, and checks that what opens is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += f" {data}"


def test_the_suspect_and_the_data_are_never_written_over(trained_folder, tmp_path, monkeypatch):
    """``overwrite`` replaces what headsweep wrote, as a victim's folder is, but not what was read."""
    monkeypatch.chdir(tmp_path)
    suspect = Path(shutil.copytree(trained_folder, "lab/suspect"))
    for ours in (suspect, suspect.parent):
        (ours / "attack.json").write_text('{"format": "headsweep.attack/1"}')
    split = sentences(60, seed=2)
    told = zip(split.texts, split.labels, strict=True)
    Path("data").mkdir()
    Path("data/demo.json").write_text('{"format": "headsweep.demo/1"}')
    write(Path("data/clean.jsonl"), [{"text": text, "label": label} for text, label in told])
    asked = {"plan": Plan(1, CPU), "strategy": "random", "heal": FineTune(0), "max_drop": 0.9}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = purify(suspect, "data/clean.jsonl", **asked, progress=False, probe=False)
    loaded = load_suspect(suspect, CPU)
    of_loaded = purify(loaded, split, **asked, progress=False, probe=False)
    monkeypatch.chdir("data")  # what was read stays where it was
    for one, read in ((done, "suspect"), (done, "lab"), (done, "data"), (of_loaded, "suspect")):
        out = suspect if read == "suspect" else Path(read)
        for write_to in (one.save, one.compact):
            with pytest.raises(UserError, match="is read here and would be replaced"):
                write_to(tmp_path / out, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert of_loaded.save(tmp_path / "data", overwrite=True).is_dir()


def test_what_was_changed_since_it_was_measured_is_not_saved(trained_folder, tmp_path):
    """Its figures would be another model's, and every check would pass."""
    asked = {"strategy": "random", "heal": FineTune(0), "max_drop": 0.9, "probe": False}
    done = purify(trained_folder, sentences(60), plan=Plan(1, CPU), progress=False, **asked)
    with torch.no_grad():
        done.model.classifier.weight.neg_()
    with pytest.raises(UserError, match="was changed since it was measured"):
        done.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with torch.no_grad():
        done.model.classifier.weight.neg_()
    out = done.save(tmp_path / "out")
    with pytest.raises(UserError, match=r"lies in .* whose files headsweep verifies"):
        compact(out, out / "again")


def test_texts_that_decide_and_are_trained_on_are_told(trained_folder):
    split = sentences(60)
    asked = {"strategy": "random", "heal": FineTune(0), "max_drop": 0.9, "probe": False}
    done = purify(
        trained_folder, split, validation=split, plan=Plan(1, CPU), progress=False, **asked
    )
    told = "60 of 60 validation texts are among the training texts: they tell little"
    assert told in done.manifest["notes"]


def test_it_is_told_in_one_line(done):
    line, gone = repr(done), len(done.mask.pruned)
    before, after = (done.manifest[stage]["test"]["accuracy"] for stage in ("before", "after"))
    assert gone
    assert "\n" not in line
    assert line.startswith(f"Purified(suspect: {gone} of 8 heads pruned by gradient, validation ")
    assert f"test accuracy {before:.3f} -> {after:.3f}; verified)" in line
    failed = [{"what": "accuracy is kept", "passed": False, "detail": ""}]
    assert repr(changed(done, checks=failed)).endswith("; NOT VERIFIED: accuracy is kept)")
    hostile = changed(done, suspect="models/a\x1b[2Jb\u202ec\nd")
    assert "Purified(a\\x1b[2Jb\\u202ec d: " in repr(hostile)


def test_a_notebook_shows_every_head_and_the_figures(done):
    page = Reader(done._repr_html_())
    squares = [attrs["fill"] for tag, attrs in page.seen if tag == "rect"]
    assert squares == ["currentColor" if keep else "none" for keep in done.mask.flat]
    assert f"{len(done.mask.pruned)} of 8 heads pruned by gradient; verified" in page.text
    for stage in ("before", "pruned", "after"):
        assert f"{done.manifest[stage]['test']['accuracy']:.3f}" in page.text
    assert len(done._repr_html_()) < 8000


def test_what_others_wrote_stays_text_in_a_notebook(done):
    evil = "<script>alert(1)</script>&\x1b[31m"
    page = Reader(changed(done, suspect=f"m/{evil[:9]}", notes=[evil])._repr_html_())
    assert "script" not in {tag for tag, _ in page.seen}
    assert "<script>alert(1)</script>&\\x1b[31m" in page.text


def test_a_row_with_very_many_units_is_counted_not_drawn(done):
    from headsweep.model.mask import HeadMask

    wide = HeadMask(((True, False),), ((True,) * 900 + (False,) * 100,))
    page = Reader(replace(done, mask=wide)._repr_html_())
    assert len([tag for tag, _ in page.seen if tag == "rect"]) == 2
    assert "100 of 1000 pruned" in page.text


def test_a_frame_has_a_row_for_every_unit(done):
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = done.to_frame()
    assert list(frame.columns) == ["kind", "layer", "index", "kept", "score"]
    assert [tuple(pair) for pair in frame[~frame.kept][["layer", "index"]].to_numpy()] == list(
        done.mask.pruned_heads
    )
    assert frame.score.tolist() == [s for row in done.manifest["search"]["scores"] for s in row]
    none = changed(done, search=done.manifest["search"] | {"scores": None}).to_frame()
    assert none.score.isna().all()


def test_without_pandas_a_frame_says_what_to_install(done, monkeypatch):
    real = builtins.__import__

    def missing(name, *more):
        if name == "pandas":
            raise ModuleNotFoundError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'headsweep\[data\]'"):
        done.to_frame()


class Hub:
    """Takes what is uploaded, as HfApi would: notes the call, and checks the folder."""

    def __init__(self, error=None):
        self.calls, self.error = [], error
        self.there = [".gitattributes", "README.md", "model.safetensors", "headsweep.json"]

    def create_repo(self, repo_id, **more):
        self.calls.append(("create", repo_id, more))
        if self.error is not None:
            raise self.error
        return RepoUrl(f"https://huggingface.co/somebody/{repo_id.rpartition('/')[2]}")

    def list_repo_files(self, repo_id, **more):
        self.listed = (repo_id, more)
        return self.there

    def upload_folder(self, *, folder_path, **more):
        assert all(check.passed for check in verify(Path(folder_path)))
        self.folder = Path(folder_path)
        self.files = {path.name for path in self.folder.iterdir()}
        self.noted = json.loads((self.folder / MANIFEST).read_text("utf-8"))
        self.calls.append(("upload", more))


def test_what_is_uploaded_is_what_save_writes(done, tmp_path):
    hub = Hub()
    address = done.push_to_hub("clean-model", private=True, revision="dev", api=hub)
    assert address == "https://huggingface.co/somebody/clean-model"
    assert hub.calls == [
        ("create", "clean-model", {"private": True, "exist_ok": True}),
        (
            "upload",
            {
                "repo_id": "somebody/clean-model",
                "commit_message": "A model purified by headsweep",
                "revision": "dev",
            },
        ),
    ]
    assert hub.files == {path.name for path in done.save(tmp_path / "out").iterdir()}
    assert hub.noted["pruned_units"] == done.manifest["pruned_units"]
    assert not hub.folder.exists()


@pytest.mark.parametrize("name", ["adapter_config.json", "model-00001-of-00002.safetensors"])
def test_files_of_another_model_are_not_left_beside_what_is_uploaded(done, name):
    hub = Hub()
    hub.there.append(name)
    with pytest.raises(UserError, match=f"holds '{name}', which is no file of the purified model"):
        done.push_to_hub("a/b", revision="dev", api=hub)
    assert hub.listed == ("somebody/b", {"revision": "dev"})
    assert [call[0] for call in hub.calls] == ["create"]


def test_files_that_nobody_loads_may_stay_beside_what_is_uploaded(done):
    hub = Hub()
    hub.there += ["LICENSE", "NOTICE.txt", ".gitignore", "training_args.bin", "runs/a/b.json"]
    assert done.push_to_hub("a/b", api=hub)


def test_an_upload_that_cannot_be_is_a_mistake_in_one_message(done, monkeypatch):
    with pytest.raises(UserError, match="somebody/a b: no name of a repository"):
        done.push_to_hub("somebody/a b", api=Hub())
    told = r"a/b: the Hub did not take it: it is not to be asked \(HF_HUB_OFFLINE\)"
    with pytest.raises(UserError, match=told):
        done.push_to_hub("a/b", api=Hub(OfflineModeIsEnabled("offline")))
    with pytest.raises(UserError, match="`hf auth login` with a token that may write"):
        done.push_to_hub("a/b", api=Hub(RuntimeError("403 Forbidden. Request id 5")))
    asked = []
    monkeypatch.setattr(
        "headsweep.purification.purified.HfApi",
        lambda **more: asked.append(more) or SimpleNamespace(create_repo=None),
    )
    with pytest.raises(UserError, match="did not take it"):
        done.push_to_hub("a/b", token="hf_x")
    assert asked == [{"token": "hf_x"}]


def test_what_did_not_verify_is_not_uploaded(done):
    hub = Hub()
    failed = replace(done, checks=[*done.checks, Check("accuracy is kept", False)])
    with pytest.raises(UserError, match="a check failed, so this is not uploaded: accuracy"):
        failed.push_to_hub("a/b", api=hub)
    assert hub.calls == []


def test_the_class_that_a_user_sees_is_documented():
    from headsweep import Purified

    for name in ("save", "report", "to_frame", "push_to_hub"):
        assert re.search(r"Raises:|Write", getattr(Purified, name).__doc__)
