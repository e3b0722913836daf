"""Cards of anything that can say what its card shall: no model is known to `dtm_hf.hub`."""

import pytest
from hub_card_rules import check_card

from dtm_hf.hub import fill_card, hub_name, save_with_card

TEMPLATE = """---
{{ card_data }}
---
# {{ model_name }} of {{ repo_id }}

| Data | {{ data }} |

{{ results or "Not measured." }}
"""


class Bell:
    """A system of its own: template, values and weights."""

    def __init__(self, folder, **values):
        self.card_template = folder / "template.md"
        self.card_template.write_text(TEMPLATE, encoding="utf-8")
        self.values = {
            "model_name": "bell",
            "license": "mit",
            "pipeline_tag": "text-to-speech",
            "tags": ["bell"],
        } | values

    def card_values(self):
        return dict(self.values)

    def save_pretrained(self, folder, **kwargs):
        (folder / "README.md").write_text("its own")


def test_another_system_brings_its_template_and_its_values(tmp_path):
    card = str(fill_card(Bell(tmp_path, data="chimes"), "org/bell-v2"))
    assert "# bell-v2 of org/bell-v2" in card and "| Data | chimes |" in card and "Not measured." in card
    assert check_card(card) == ([], [])
    assert "base_model" not in card
    assert "# bell of PATH" in str(fill_card(Bell(tmp_path)))


def test_what_was_named_cannot_break_the_table(tmp_path):
    name = "a|b\n\n# Not a title <script>"
    card = str(fill_card(Bell(tmp_path, data=name, results={name: {"x|y": 1}}), "org/bell"))
    assert r"| Data | a\|b # Not a title &lt;script> |" in card
    assert r"| | x\|y |" in card and r"| a\|b # Not a title &lt;script> | 1 |" in card
    assert check_card(card)[0] == []


def test_the_card_is_that_of_the_repository_and_its_results(tmp_path):
    bell = Bell(tmp_path, results={"old": {"figure": 1}})
    save_with_card(bell, tmp_path, "org/bell", results={"new": {"figure": 2}})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "# bell of org/bell" in card and "| new | 2 |" in card and "old" not in card


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", "org/name"),
        (None, None),
        ("./org", None),
        ("/org/name", None),
        ("~/name", None),
        ("a/b/c", None),
        ("org/a b", None),
    ],
)
def test_names_on_the_hub(name, expected):
    assert hub_name(name) == expected


def test_a_folder_is_no_name_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "org/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_name("org/name") is None and hub_name(tmp_path) is None


def test_what_a_head_says_of_its_sampler_is_text(make_head):
    card = str(fill_card(make_head(sampler={"time_grid": "<script>\n| x |"}, license="mit"), "org/head"))
    assert "<script>" not in card and "&lt;script>" in card and r"\| x \|" in card
