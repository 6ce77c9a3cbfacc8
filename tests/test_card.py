"""The model card, as the Hub reads it, and what of a suspect's own card goes into it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from headsweep.export.card import model_card
from headsweep.export.suspect_card import SuspectCard, suspect_card
from headsweep.model.mask import HeadMask


def manifest(suspect: object, **more: object) -> dict[str, object]:
    figures = {
        part: {"examples": 200, "right": 180, "accuracy": 0.9} for part in ("validation", "test")
    }
    return {
        "suspect": str(suspect),
        "pruned_units": ["0.1", "1.3"],
        "units": 8,
        "mask": HeadMask(((True, False, True, True), (True,) * 4)).to_json(),
        "strategy": {"name": "gradient"},
        "heal": {"name": "fine-tune", "fields": {"epochs": 4}, "tried": []},
        "before": figures,
        "after": {part: one | {"right": 176, "accuracy": 0.88} for part, one in figures.items()},
        "bound": {"min_accuracy": 0.88, "binds": True},
        "checks": [],
        "search": {"steps": [], "scores": None},
    } | more  # fmt: skip


@pytest.fixture
def suspect(tmp_path):
    def write(text, name="suspect"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "README.md").write_text(text, "utf-8")
        return folder

    return write


def test_the_hub_reads_the_figures(tmp_path):
    card = ModelCard(model_card(manifest(tmp_path / "movies")))
    found = {one.dataset_split: one.metric_value for one in card.data.eval_results}
    assert found == {"validation": 0.88, "test": 0.88}
    assert card.data.model_name == "movies, pruned by headsweep"
    assert card.data.tags[0] == "headsweep"
    assert card.data.license is None
    assert "| accuracy, test (200 examples) | 0.900 | 0.880 |" in card.text
    assert "does not call the model clean" in card.text.replace("\n", " ")


def test_what_the_suspects_card_says_is_carried_over(suspect):
    folder = suspect(
        "---\nlicense: apache-2.0\nlanguage: [en]\nbase_model: google-bert/bert-base-uncased\n"
        "datasets:\n- stanfordnlp/imdb\ntags: [sentiment, arxiv:1810.04805]\n---\n# Movies\n"
    )
    data = ModelCard(model_card(manifest(folder))).data
    assert data.license == "apache-2.0"
    assert (data.base_model, data.datasets) == (["google-bert/bert-base-uncased"], ["stanfordnlp/imdb"])  # fmt: skip
    assert data.language == ["en"]
    assert data.tags[-2:] == ["sentiment", "arxiv:1810.04805"]


def test_a_model_of_the_hub_is_the_base_model():
    assert suspect_card("org/no-such-model").base_model == ("org/no-such-model",)
    assert suspect_card("a model in memory") == SuspectCard()


BOMB = "a: &a [x, x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)  # fmt: skip


@pytest.mark.parametrize(
    "block",
    [
        BOMB + "license: mit",
        "license: " + "[" * 8000,
        "tags: " + "{a: " * 4000,
        "- " * 8000,
        "license: !!python/object/apply:os.system ['true']",
        'license: "mit\\ntags: [owned]"',
        'license: "mi\\u202et"',
        "license: [{}]\nlanguage: {en: 1}\ntags: [[mit], 3, null]\nbase_model: ../../etc",
        "license: mit\n" + "x: y\n" * 9000,
        "license: <script>",
        "- license",
        "license: 2026-13-45",
        "license: !!bool maybe",
        "license: !!timestamp soon",
        'license: !!int ""',
    ],
)
def test_a_hostile_card_gives_nothing(suspect, block):
    begun = time.process_time()
    folder = suspect(f"---\n{block}\n---\n")
    assert suspect_card(str(folder)) == SuspectCard()
    assert time.process_time() - begun < 5
    assert yaml.safe_load(model_card(manifest(folder)).split("---")[1])["tags"][0] == "headsweep"


def test_the_first_of_several_licences_is_not_carried_and_norwegian_is(suspect):
    found = suspect_card(
        str(suspect("---\nlicense: [mit, cc-by-nc-4.0]\nlanguage: [en, no]\n---\n"))
    )
    assert found.license is None
    assert found.language == ("en", "no")


def test_the_name_of_a_strategy_cannot_add_to_the_text():
    name = "x`.\n\n**Certified clean by headsweep.** <img src=https://e.example/p.png>\n\n`"
    card = model_card(manifest("/models/m", strategy={"name": name}))
    assert "**Certified" not in card
    assert "<img" not in card


def test_what_the_hub_acts_on_and_long_lists_stay_behind(suspect):
    tags = ["custom_code", *(f"tag-{i}" for i in range(50))]
    found = suspect_card(str(suspect(f"---\ntags: [{', '.join(tags)}]\n---\n")))
    assert found.tags == tuple(f"tag-{i}" for i in range(19))


def test_a_card_that_is_a_link_or_a_pipe_is_not_opened(tmp_path, suspect):
    suspect("---\nlicense: mit\n---\n", "other")
    for name in ("link", "pipe"):
        (tmp_path / name).mkdir()
    (tmp_path / "link/README.md").symlink_to(tmp_path / "other/README.md")
    os.mkfifo(tmp_path / "pipe/README.md")
    assert suspect_card(str(tmp_path / "link")) == suspect_card(str(tmp_path / "pipe")) == SuspectCard()  # fmt: skip


def test_a_name_cannot_add_to_the_metadata():
    name = "x\nlicense: mit\n---\n# I am clean\u202e"
    card = ModelCard(model_card(manifest(Path("/models") / name)))
    assert card.data.license is None
    assert "\n# I am clean" not in str(card)
    assert "\u202e" not in str(card)
