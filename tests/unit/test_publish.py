"""Which files of a folder are published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from facke_core.errors import UsageError, WeightsError
from facke_core.publish.card import model_card
from facke_core.publish.private import check_links, texts_of
from facke_core.publish.push import layout_files, push
from facke_core.weights.hub import copy_layout
from facke_core.weights.layout import CONFIG, GOLDEN, MODEL, WeightsConfig, read_weights_config

BESIDE = ("LICENSE", "README.md", "log-1.jsonl", "log.svg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {name: {"sha256": "0" * 64} for name in (MODEL, GOLDEN)}
    config = {"method": "simswap", "alignment": {}, "files": files}
    (tmp_path / "w" / "test").mkdir(parents=True)
    (tmp_path / "w" / CONFIG).write_text(json.dumps(config))
    for name in (MODEL, GOLDEN, *BESIDE, ".gitattributes"):
        (tmp_path / "w" / name).write_text(name)
    return tmp_path / "w"


def config_of(folder: Path) -> WeightsConfig:
    return read_weights_config(folder)


LAYOUT = sorted([*BESIDE, CONFIG, MODEL, GOLDEN])


def test_the_layout_is_published_and_hidden_files_are_not(folder: Path) -> None:
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.json").write_text("{}")
    assert layout_files(folder, config_of(folder)) == (LAYOUT, [])


def test_the_state_of_a_training_is_left_out(folder: Path) -> None:
    (folder / "optimizers.safetensors").write_text("")
    state = {"step": 1, "recipe": {"steps": 1}, "files": {"optimizers.safetensors": "0"}}
    (folder / "state.json").write_text(json.dumps(state))
    assert layout_files(folder, config_of(folder)) == (
        LAYOUT,
        ["optimizers.safetensors", "state.json"],
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("notes.txt", "are published"),
        ("other.safetensors", "are published"),
        ("test/other.safetensors", "are published"),
        ("epoch.pth", r"epoch\.pth may be pickles"),
    ],
)
def test_anything_else_is_refused_by_name(folder: Path, name: str, why: str) -> None:
    (folder / name).write_text("")
    with pytest.raises(WeightsError, match=f"do not belong to weights: {name}; .*{why}"):
        layout_files(folder, config_of(folder))


def test_links_are_refused_and_nothing_behind_them_is_read(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    (folder / ".hidden").symlink_to(secret)
    check_links(folder)
    (folder / "NOTICE").symlink_to(secret)
    with pytest.raises(WeightsError, match=r"holds links: NOTICE\."):
        check_links(folder)
    (folder / "NOTICE").unlink()
    (folder / "test").rename(tmp_path / "elsewhere")
    (folder / "test").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match=r"holds links: test\."):
        check_links(folder)
    for name in (MODEL, CONFIG, "LICENSE"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        with pytest.raises(WeightsError, match=f"{name}.* Put copies in their place"):
            check_links(folder)
    with pytest.raises(WeightsError, match="holds links"):
        push(folder, "hf:org/name", dry_run=True)


BOB = "/" + "home/bob"
PLACES = [
    f"see {BOB}/notes",
    "/Users/eve/x",
    f"file://{BOB}",
    r"C:\Users\bob\photos",
    "D:/Users/bob",
    "x=/" + "root/weights",
    "/mnt/c/Users/bob",
]


@pytest.mark.parametrize("text", PLACES)
@pytest.mark.parametrize("name", ["README.md", "NOTICE", "log-1.jsonl", "DATA.md", "log.svg"])
def test_a_text_that_names_a_home_is_refused(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"one\n{text} and more")
    with pytest.raises(WeightsError, match=rf"{name} names .*a place on your machine"):
        texts_of(folder, [name])


def test_own_places_are_refused_and_ordinary_texts_are_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "NOTICE").write_text(f"made in {folder}")
    with pytest.raises(WeightsError, match="NOTICE names"):
        texts_of(folder, ["NOTICE"])
    monkeypatch.setenv("HOME", "/nfs/people/bob")
    (folder / "NOTICE").write_text("made in /nfs/people/bob/x")
    with pytest.raises(WeightsError, match="/nfs/people/bob"):
        texts_of(folder, ["NOTICE"])
    plain = f"See https://example.org{BOB}, /usr/share/common-licenses/GPL, and/or ./home/x"
    (folder / "NOTICE").write_text(plain)
    assert texts_of(folder, ["NOTICE", *BESIDE])["NOTICE"] == plain.encode()


@pytest.mark.parametrize(
    "value",
    [*PLACES, "/data/x.jpg", "~/x", r"\\server\share\x", r"E:\x", "made of /data/clients/acme",
     "--data=/srv/x/y", "file:/x"],
)  # fmt: skip
@pytest.mark.parametrize("name", [CONFIG, "evaluation.json"])
def test_no_json_has_an_absolute_path(folder: Path, name: str, value: str) -> None:
    (folder / name).write_text(json.dumps({"a": [{"b": value}]}, ensure_ascii=True))
    with pytest.raises(WeightsError, match=rf"{name} names .*a place on your machine"):
        texts_of(folder, [name])
    (folder / name).write_text(json.dumps({value: 1}))
    with pytest.raises(WeightsError, match="a place on your machine"):
        texts_of(folder, [name])


def test_places_in_the_metadata_of_tensors_are_refused(folder: Path) -> None:
    save_file({"x": torch.zeros(1)}, folder / MODEL, {"made": f"{BOB}/run"})
    with pytest.raises(WeightsError, match=rf"model\.safetensors names '{BOB}"):
        texts_of(folder, [MODEL])


def test_pictures_and_people_of_an_evaluation_have_numbers_for_names(folder: Path) -> None:
    row: dict[str, object] = {"source": "ann/1.jpg", "target": "bob.png", "source_identity": "ann"}
    rows = [
        row | {"target_identity": "bob.png", "values": {"x": 1}, "skipped": ""},
        row | {"target": "eve.png", "skipped": "the target cannot be used: eve.png is damaged"},
    ]
    report = {"name": "w", "rows": rows, "skipped": {rows[1]["skipped"]: 1}, "summary": {"ann": 1}}
    (folder / "evaluation.json").write_text(
        json.dumps({"facke_evaluation": 1, "reports": [report]})
    )
    text = texts_of(folder, ["evaluation.json"])["evaluation.json"].decode()
    for name in ("ann/", "bob", "eve", "jpg"):
        assert name not in text
    (shown,) = json.loads(text)["reports"]
    assert shown["rows"][0]["source"] == shown["rows"][1]["source"]
    assert len({shown["rows"][0][side] for side in ("source", "target")}) == 2
    (reason,) = shown["skipped"]
    assert reason == shown["rows"][1]["skipped"]
    assert shown["rows"][0]["values"] == {"x": 1}
    assert shown["summary"] == {"ann": 1}
    for odd in ('[{"rows": [1]}]', "[[]]", '[{"rows": 1}]'):
        (folder / "evaluation.json").write_text(f'{{"reports": {odd}}}')
        with pytest.raises(WeightsError, match="is not what `facke evaluate` writes"):
            texts_of(folder, ["evaluation.json"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("![x](http://tracker/x.png)", r"![x]\(http://tracker/x.png)"),
        ("[DATA.md](DATA.md), [x](javascript:1)", r"[DATA.md](DATA.md), [x]\(javascript:1)"),
        ("[x][y]", r"[x]\[y]"),
        ("a | b", r"a \| b"),
        ("*a* _b_ c_d `e` ~~f~~", r"\*a\* \_b\_ c_d \`e\` \~\~f\~\~"),
        (r"\*a\*", r"\\\*a\\\*"),
        ("a\n# b\x1b[31m\u202e", "a # b [31m"),
        ("[16, 32] (n = 5) c_d <http://x>", "[16, 32] (n = 5) c_d &lt;http://x>"),
    ],
)
def test_what_others_wrote_is_text_in_a_card(text: str, shown: str) -> None:
    config = WeightsConfig(
        method="simswap", alignment={}, license=text, training={"note": text, text: 1}
    )
    report = {
        "name": text,
        "metrics": {text: {"unit": text, "higher_is_better": True}},
        "summary": {text: {"value": 1.0, "n": 1, "low": None, "high": None}},
        "protocol": {"program": text, "note": f"# {text}"},
    }
    card = model_card(config, {"reports": [report]})
    assert f"| note | {shown} |" in card
    assert f"| licence of the weights | {shown} |" in card
    assert f"\n\\# {shown}\n" in card
    if text != shown:
        assert text not in card.replace("\\# ", "")


def test_a_copy_is_whole_and_never_overwrites(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "new" / "copy"
    copy_layout(folder, config_of(folder), copy)
    assert sorted(p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()) == LAYOUT
    with pytest.raises(UsageError, match="exists already"):
        copy_layout(folder, config_of(folder), copy)
    (folder / MODEL).unlink()
    with pytest.raises(WeightsError, match="cannot be written"):
        copy_layout(folder, config_of(folder), tmp_path / "half")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "w"]
