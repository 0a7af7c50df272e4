"""What people add to an index is kept, undone and handed on."""

from __future__ import annotations

import csv
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from app.journal import LABEL, LEAVE_OUT, RELABEL, TAG, TAKE_BACK, UNTAG, Journal, now
from app.keeping import write_actions, write_manifest
from app.visitor import undo
from jepack.errors import ArtifactError, ConfigError
from jepack.sources import find_images

OLD_TABLES = """
CREATE TABLE actions (
  number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, who TEXT NOT NULL, kind TEXT NOT NULL,
  value TEXT NOT NULL, undone TEXT) STRICT;
CREATE TABLE images (
  action INTEGER NOT NULL REFERENCES actions(number), image TEXT NOT NULL, PRIMARY KEY (action, image)
  ) STRICT, WITHOUT ROWID;
"""
WRITER = """
import sys
from app.journal import LABEL, Journal
journal = Journal(sys.argv[1])
for number in range(100_000):
    journal.add(LABEL, [f"{sys.argv[2]}{number}/a", f"{sys.argv[2]}{number}/b"], "cat")
    print(number, flush=True)
"""


def test_what_one_click_did_is_undone_by_one_undo(tmp_path: Path) -> None:
    journal, at = Journal(tmp_path / "index"), now()
    journal.add(TAG, ["z"], "kept", session="a")
    journal.add(RELABEL, ["a", "b"], "cat", session="a", at=at)
    journal.add(RELABEL, ["c"], "dog", session="b", at=at)  # another's, of the same moment
    journal.add(RELABEL, ["d"], "dog", session="a", at=at)
    undone = journal.undo(session="a")
    assert undone is not None
    assert (undone.images, undone.value) == (("a", "b", "d"), "")
    assert journal.stands().labels == {"c": "dog"}
    undone = journal.undo(session="a")
    assert undone is not None
    assert undone.kind == TAG


def test_what_was_added_holds_until_it_is_undone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "index")
    assert journal.undo() is None
    assert journal.stands().version == (0, 0)
    assert not journal.path.exists()  # looking makes no file
    journal.add(LABEL, ["a", "b"], "cat", who="one")
    journal.add(RELABEL, ["b"], "dog", who="other")
    journal.add(TAG, ["a"], "odd one", who="one")
    journal.add(LEAVE_OUT, ["c"], "blurred")
    found = journal.stands()
    assert (found.labels, found.left_out) == ({"a": "cat", "b": "dog"}, {"c": "blurred"})
    assert found.tags == {"a": {"odd one"}}
    assert found.label("z", "folder") == "folder"
    undone = journal.undo(who="one")
    assert undone is not None
    assert (undone.kind, undone.images) == (TAG, ("a",))
    undone = journal.undo()
    assert undone is not None
    assert undone.kind == LEAVE_OUT
    journal.undo()
    assert journal.stands().labels == {"a": "cat", "b": "cat"}
    assert [one.undone is None for one in journal.actions()] == [True, False, False, False]


def test_undo_on_the_page_is_about_ones_own_actions_and_says_whose_the_newest_is(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "index")
    assert undo(journal, "mine") == (False, "There is nothing to undo.")
    journal.add(LABEL, ["a"], "cat", session="mine")
    journal.add(LABEL, ["b", "c"], "dog", session="yours")
    assert undo(journal, "mine") == (True, "Undone: label “cat”, 1 image.")
    assert journal.stands().labels == {"b": "dog", "c": "dog"}
    done, said = undo(journal, "mine")
    assert not done
    assert "The newest action is another's: label “dog”, 2 images" in said
    assert journal.stands().labels == {"b": "dog", "c": "dog"}


def test_a_journal_from_before_there_were_sessions_loses_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "index")
    with closing(sqlite3.connect(journal.path)) as db:
        db.executescript(
            OLD_TABLES
            + "INSERT INTO actions VALUES (1, '2026-01-01T00:00:00', 'one', 'label', 'cat', NULL);"
            "INSERT INTO images VALUES (1, 'a'); PRAGMA user_version=1;"
        )
    assert journal.stands().labels == {"a": "cat"}
    journal.add(LABEL, ["b"], "dog", session="mine")
    assert undo(journal, "mine")[0]
    assert not undo(journal, "mine")[0]
    assert Journal(tmp_path / "index").stands().labels == {"a": "cat"}
    with closing(sqlite3.connect(journal.path)) as db:  # as an older jepack writes to it
        db.execute(
            "INSERT INTO actions (at, who, kind, value) VALUES ('2026', 'one', 'label', 'fox')"
        )
        db.execute("INSERT INTO images VALUES (last_insert_rowid(), 'c')")
        db.commit()
    assert journal.stands().labels == {"a": "cat", "c": "fox"}


def test_tags_leaving_out_and_labels_can_be_taken_away_later(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "index")
    journal.add(TAG, ["a"], "x")
    journal.add(TAG, ["a"], "y")
    journal.add(UNTAG, ["a", "never"], "x")
    journal.add(LEAVE_OUT, ["a"])
    journal.add(TAKE_BACK, ["a"])
    journal.add(LABEL, ["a"], "cat")
    journal.add(LABEL, ["a"], "")
    found = journal.stands()
    assert (found.labels, found.tags, found.left_out) == ({}, {"a": {"y"}}, {})


def test_another_process_and_a_new_start_see_the_same(tmp_path: Path) -> None:
    one, other = Journal(tmp_path / "index"), Journal(tmp_path / "index")
    one.add(LABEL, ["a"], "cat")
    assert other.stands().labels == {"a": "cat"}
    other.add(LABEL, ["b"], "dog")
    one.close()
    assert one.stands() == other.stands()


def test_a_writer_that_is_killed_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    index = tmp_path / "index"
    told = {}
    writers = {
        name: subprocess.Popen(
            [sys.executable, "-c", WRITER, str(index), name], stdout=subprocess.PIPE, text=True
        )
        for name in "pq"  # two processes at once
    }
    for name, writer in writers.items():
        assert writer.stdout is not None
        told[name] = [int(writer.stdout.readline()) for _ in range(30)][-1]
    for writer in writers.values():
        os.kill(writer.pid, signal.SIGKILL)
    for name, writer in writers.items():
        assert writer.stdout is not None
        told[name] = max([told[name], *map(int, writer.stdout.read().split())])
        writer.stdout.close()
        writer.wait()
    journal = Journal(index)
    labels = journal.stands().labels
    kept = {f"{p}{n}/{of}" for p, last in told.items() for n in range(last + 1) for of in "ab"}
    assert kept <= set(labels)
    assert all(len(action.images) == 2 for action in journal.actions())  # whole actions alone
    with sqlite3.connect(journal.path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    journal.add(LABEL, ["after"], "cat")
    assert journal.stands().labels["after"] == "cat"
    journal.close()


@pytest.mark.parametrize(
    ("kind", "images", "value", "said"),
    [
        ("paint", ["a"], "x", "no action of a journal"),
        (LABEL, [], "x", "no image was chosen"),
        (TAG, ["a"], "  ", "no word was given"),
        (LABEL, ["a"], "x" * 300, "300 signs"),
    ],
)
def test_what_cannot_be_kept_is_told(
    tmp_path: Path, kind: str, images: list[str], value: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        Journal(tmp_path / "index").add(kind, images, value)


def test_a_file_that_is_no_journal_is_told_and_left_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "index")
    journal.path.write_text("these are my notes, not a database at all\n" * 50)
    with pytest.raises(ArtifactError, match="journal of this index cannot be used"):
        journal.add(LABEL, ["a"], "cat")
    assert journal.path.read_text().startswith("these are my notes")


def test_the_actions_are_written_as_a_table_of_either_kind(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    journal = Journal(tmp_path / "index")
    write_actions(tmp_path / "none.parquet", journal.actions())
    journal.add(LABEL, ["a", "b"], "cat, black", who="one")
    journal.undo()
    write_actions(tmp_path / "log.csv", journal.actions())
    write_actions(tmp_path / "log.parquet", journal.actions())
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [(row["image"], row["value"], row["who"]) for row in rows] == [
        ("a", "cat, black", "one"), ("b", "cat, black", "one")
    ]  # fmt: skip
    assert [str(v) for v in pq.read_table(tmp_path / "log.parquet").to_pylist()[1].values()] == [
        str(v) for v in rows[1].values()
    ]
    with pytest.raises(ConfigError, match=".csv or .parquet"):
        write_actions(tmp_path / "log.xlsx", journal.actions())


@pytest.mark.parametrize("place", ["labels.csv", "../elsewhere/labels.csv"])
def test_the_manifest_gives_find_images_the_labels_that_hold(
    tmp_path: Path, digits_folder: Path, place: str
) -> None:
    data = tmp_path / "data"
    (data / "0").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    images = find_images(digits_folder)
    names = ["0/a.png", "0/b, c.png", "0/d#1.png", "0/e.png"]
    for name, image in zip(names, images, strict=False):
        (data / name).write_bytes(image.path.read_bytes())
    journal = Journal(tmp_path / "index")
    journal.add(RELABEL, [names[1]], "seven")
    journal.add(LEAVE_OUT, [names[3]])
    journal.add(TAG, [names[0]], "very odd")
    catalogue = [(name, "0") for name in names[:3]] + [(names[3], "0")]
    path = data / place
    assert write_manifest(path, catalogue, journal.stands(), data, find_images(data)) == 3
    found = {image.name_below(data): image for image in find_images(path)}
    assert {name: image.label for name, image in found.items()} == {
        names[0]: "0", names[1]: "seven", names[2]: "0"
    }  # fmt: skip
    assert found[names[0]].columns["tags"] == "very_odd"
    assert all(image.path.is_file() for image in found.values())


def test_where_people_log_in_actions_bear_their_names_and_each_undoes_their_own(
    tmp_path: Path,
) -> None:
    asks = "anna"
    journal = Journal(tmp_path / "index", lambda: asks)
    journal.add("label", ["a"], "good")
    asks = "bo"
    journal.add("label", ["a"], "bad")
    asks = "anna"
    undone = journal.undo()
    assert undone is not None
    assert (undone.who, undone.value) == ("anna", "good")
    assert journal.stands().label("a") == "bad"
    assert journal.undo() is None
    assert [one.who for one in journal.actions()] == ["anna", "bo"]
