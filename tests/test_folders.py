"""Output folders: one run at a time, whole or as before, and nothing of dead runs left."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from headsweep.drafts import MANIFEST, here, write_json
from headsweep.errors import UserError
from headsweep.export import folders
from headsweep.export.folders import check_free, drafted
from headsweep.model.runtime import USUAL_CACHE, Runtime
from headsweep.reports import page
from headsweep.texts import reading
from headsweep.verbs.arguments import check_file

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has such names")
HOLD = """
import sys
from pathlib import Path
from headsweep.export.folders import reserve
reserve(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def filled(folder, text):
    folder.mkdir()
    (folder / "demo.json").write_text('{"format": "headsweep.demo/1"}')
    (folder / "text").write_text(text)
    return folder


@LINUX
def test_two_runs_cannot_write_one_folder(tmp_path):
    out = tmp_path / "out"
    words = [sys.executable, "-c", HOLD, str(out)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another run is writing it"):
            check_free(out, overwrite=False)
        check_free(tmp_path / "other", overwrite=False)
        other.kill()  # however it ends, the folder is free again
    check_free(out, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_is_never_written_over(tmp_path, monkeypatch):
    out = tmp_path / "out"
    (out / "models" / "one").mkdir(parents=True)
    (out / MANIFEST).write_text('{"format": "headsweep.manifest/1"}')
    (out / "clean.csv").write_text("text,label\n")
    monkeypatch.chdir(out)
    for read in (out, out / "clean.csv", "models/one", ".", str(tmp_path / "out" / "models")):
        with pytest.raises(UserError, match=r"is read here and would be replaced"):
            check_free(out, True, ("org/model", None, read))
    monkeypatch.chdir(tmp_path)
    check_free(out, True, ("org/model", None, "imdb:train", tmp_path / "other", tmp_path))


def test_the_folder_that_one_is_in_is_not_replaced(tmp_path, monkeypatch):
    out = filled(tmp_path / "out", "before")
    (out / "below").mkdir()
    for place in (out, out / "below"):
        monkeypatch.chdir(place)
        with pytest.raises(UserError, match="is the folder that this runs in, or above it"):
            check_free(out, overwrite=True)
    (out / "below").rmdir()  # where one is in a folder that is gone, nothing more can be lost
    check_free(out, overwrite=True)


def test_a_folder_is_free_again_when_what_it_was_kept_for_fails(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), folders.kept_free(out, overwrite=False):
        raise ZeroDivisionError
    assert out not in folders._RESERVED


def test_a_file_is_put_neither_among_verified_ones_nor_over_what_is_read(tmp_path):
    out, clean = tmp_path / "out", tmp_path / "clean.csv"
    out.mkdir()
    (out / MANIFEST).write_text('{"format": "headsweep.manifest/1"}')
    clean.write_text("text,label\n")
    (tmp_path / "way").symlink_to(out)
    for folder in (out / "second", out / "a" / "b", tmp_path / "way" / "third"):
        with pytest.raises(UserError, match="whose files headsweep verifies"):
            check_free(folder, overwrite=False)
    new = tmp_path / "new"  # a folder that is to be written
    for file in (out / "a.sarif", out / "b" / "c.html", tmp_path / "way" / "a.htm", new / MANIFEST):
        with pytest.raises(UserError, match="whose files headsweep verifies"):
            check_file(file, False, folder=new)
    for file in (out / "a.html", new / "a.HTML", tmp_path / "a.sarif"):
        check_file(file, False, folder=new)
    with pytest.raises(UserError, match="is read here and would be replaced"):
        check_file(clean, True, ("org/model", None, str(clean)))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is read here and would be replaced"):
        check_file(tmp_path / "model" / "config.json", True, (str(tmp_path / "model"),))
    check_file(tmp_path / "model" / "page.html", False, (str(tmp_path / "model"),))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="cannot be reached: a link that leads to itself"):
        check_file(tmp_path / "loop", True)
    with pytest.raises(UserError, match="cannot be reached: a link that leads to itself"):
        check_file(tmp_path / "loop" / "a.html", True)
    with pytest.raises(UserError, match="cannot be reached: a link that leads to itself"):
        check_free(tmp_path / "loop" / "out", overwrite=False)
    with pytest.raises(UserError, match="cannot be reached: File name too long"):
        check_free(tmp_path / ("a" * 300), overwrite=False)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.json", lambda path: write_json(path, {"a": 1})),
        ("a.html", lambda path: page.write(path, "text")),
        ("a.csv", lambda path: reading.write(path, [{"text": "a"}])),
    ],
)
def test_behind_a_link_to_a_file_is_written_what_it_points_to(tmp_path, name, write):
    link, target = tmp_path / name, tmp_path / "far" / "real"
    link.symlink_to(target)
    check_file(link, overwrite=False)
    write(link)
    assert link.is_symlink()
    assert link.read_text() == target.read_text() != ""
    with pytest.raises(UserError, match="is there already"):
        check_file(link, overwrite=False)


def test_files_of_ones_own_in_a_purified_folder_are_not_removed(tmp_path):
    out = tmp_path / "out"
    (out / "notes").mkdir(parents=True)
    (out / "model.safetensors").write_text("")
    (out / "config.json").write_text("{}")
    (out / "README.md").write_text("mine to write on")
    (out / "report.html").write_text("")
    written = {
        "weights_sha256": {"model.safetensors": ""},
        "other_files_sha256": {"config.json": ""},
    }
    (out / MANIFEST).write_text(json.dumps({"format": "headsweep.manifest/1"} | written))
    check_free(out, overwrite=True)
    for name in ("notes/thesis.tex", "other.safetensors", ".git"):
        (out / name).write_text("mine")
        with pytest.raises(UserError, match=f"holds '{name}', which headsweep did not write"):
            check_free(out, overwrite=True)
        (out / name).unlink()
    check_free(out, overwrite=True)


@pytest.mark.parametrize("record", folders.RECORDS)
def test_files_of_ones_own_in_any_folder_of_headsweep_are_not_removed(tmp_path, record):
    out = tmp_path / "out"
    with drafted(out, overwrite=False) as draft:
        write_json(draft / record, {"format": "headsweep.test/1"})
        (draft / "model.safetensors").write_text("")
        write_json(draft / "suspect" / "config.json", {})
    check_free(out, overwrite=True)
    (out / "README.md").write_text("mine to write on")
    for name in ("notes.txt", "suspect/notes.txt", "other.safetensors"):
        (out / name).write_text("mine")
        with pytest.raises(UserError, match=f"holds '{name}', which headsweep did not write"):
            check_free(out, overwrite=True)
        (out / name).unlink()
    write_json(out / record, {"format": "headsweep.test/1"})  # of a headsweep that named none
    (out / "notes.txt").write_text("mine")
    check_free(out, overwrite=True)


@pytest.mark.parametrize("there", [False, True])
def test_behind_a_link_is_written_what_it_points_to(tmp_path, there):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "real", tmp_path / "link"
    if there:
        filled(target, "old")
    link.symlink_to(target)
    with drafted(link, overwrite=there) as draft:
        (draft / "text").write_text("new")
    assert link.is_symlink()
    assert [path.name for path in target.iterdir()] == ["text"]
    assert (link / "text").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "link"]
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["real"]


def test_a_mount_point_is_refused_before_anything_long(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(folders.os.path, "ismount", lambda path: str(path) == str(out))
    with pytest.raises(UserError, match=r"is a mount point.*\n.*a folder inside it"):
        check_free(out, overwrite=True)
    check_free(out / "model", overwrite=True)


@LINUX
def test_drafts_of_dead_runs_are_removed_and_what_they_moved_comes_back(tmp_path):
    out, dead = tmp_path / "out", tmp_path / ".out.0123abcd"
    dead.mkdir()
    filled(dead / "old", "before")
    young = tmp_path / ".out.89abcdef"  # of another container, perhaps: at work
    filled(young, "being written")
    filled(tmp_path / f".out.{here()}0123", "half of it")  # of a run here, which is dead
    for path in (dead, *dead.rglob("*")):
        os.utime(path, (0, 0))
    for name in (".out.notes", ".out.0123abcde", ".other.0123abcd"):  # none of ours
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="exists already"), drafted(out, overwrite=False) as draft:
        (draft / "text").write_text("after")
    assert (out / "text").read_text() == "before"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"out", ".out.notes", ".out.0123abcde", ".other.0123abcd", young.name}


@pytest.mark.parametrize("at_once", [True, False])
def test_overwriting_leaves_the_new_folder_alone(tmp_path, monkeypatch, at_once):
    if not at_once:
        monkeypatch.setattr(folders, "_exchanged", lambda *_: False)
    out = filled(tmp_path / "out", "before")
    with drafted(out, overwrite=True) as draft:
        (draft / "text").write_text("after")
        assert (out / "text").read_text() == "before"
    assert (out / "text").read_text() == "after"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@LINUX
def test_the_two_folders_are_exchanged_in_one_step(tmp_path, monkeypatch):
    """No rename takes the old one away first: with every other rename refused it still works."""
    out = filled(tmp_path / "out", "before")
    monkeypatch.setattr(type(out), "rename", lambda *_: pytest.fail("a moment without either"))
    with drafted(out, overwrite=True) as draft:
        (draft / "text").write_text("after")
    assert (out / "text").read_text() == "after"


FULL = "No space left on device"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, FULL),
        SafetensorError(f"Error while serializing: I/O error: {FULL} (os error 28)"),
        Exception(f"{FULL} (os error 28)"),  # of tokenizers
    ],
)
def test_a_full_disk_leaves_what_is_finished(
    error, trained_folder, csv_file, tmp_path, monkeypatch, capsys
):
    from headsweep.cli import main
    from headsweep.purification import purified

    def full(*_):
        raise error

    monkeypatch.setattr(purified, "save_model", full)
    words = ["purify", trained_folder, "--data", csv_file, "--out", tmp_path / "out", "--device",
             "cpu", "-q", "--strategy", "random", "--heal", "epochs=0", "--max-drop", "0.4"]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, words)))
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert "No space left on device" in said
    assert "what could be kept is in" in said
    assert "the same command goes on" in said
    assert len([*(tmp_path / "out.unfinished").glob("*/head-mask.json")]) == 1
    assert not (tmp_path / "out").exists()


def test_ctrl_c_once_the_new_folder_is_there_says_so(
    trained_folder, csv_file, tmp_path, monkeypatch, capsys
):
    """The old one is being removed then: the run is over, and nothing is to be gone on with."""
    from headsweep.cli import main

    out = tmp_path / "out"
    words = ["purify", trained_folder, "--data", csv_file, "--out", out, "--device", "cpu", "-q",
             "--strategy", "random", "--heal", "epochs=0", "--max-drop", "0.4"]  # fmt: skip
    with pytest.raises(SystemExit):
        main(list(map(str, words)))
    usual = folders._swap

    def swapped(draft, place):
        usual(draft, place)
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "_swap", swapped)
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words), "--overwrite", "--seed", "3"])
    assert stop.value.code == 130
    assert f"{out} was written" in capsys.readouterr().err
    assert not (tmp_path / "out.unfinished").exists()
    assert json.loads((out / MANIFEST).read_text())["seed"] == 3


def test_the_usual_cache_suits_a_laptop():
    assert Runtime(device="cpu").cache_bytes <= USUAL_CACHE == 512 << 20


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("headsweep.drafts import write_json", "{'i': i}"),
        ("headsweep.reports.page import write", "str(i)"),
        ("headsweep.texts.reading import write", "[{'i': i}]"),
    ],
)
def test_two_processes_may_write_one_record_at_once(place, what, tmp_path):
    """Both had one draft: the second to rename it found none, and its run ended."""
    script = (
        f"import sys; from pathlib import Path; from {place} as put\n"
        f"for i in range(400): put(Path(sys.argv[1]), {what})"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "one.jsonl")]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [one.wait(timeout=120) for one in both] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["one.jsonl"]


def test_a_path_that_is_not_utf8_is_refused_before_the_run(tmp_path):
    """safetensors cannot write there: what had been healed was lost at the end."""
    with pytest.raises(UserError, match="this path is not written in UTF-8"):
        check_free(tmp_path / "caf\udce9", overwrite=False)
    check_free(tmp_path / "caf\u00e9", overwrite=False)
