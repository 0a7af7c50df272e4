"""What people added to an index: labels, tags, what is left out. Never lost, undoable, theirs.

SQLite beside the index, as NAME.journal: building the index again replaces its folder, and not this file.
Every action is one transaction of one writer, on the disk when `add` returns (WAL, synchronous=FULL): a
process that is killed loses nothing it was told had been kept. Nothing is deleted: an undone action stays,
marked.
"""

from __future__ import annotations

import getpass
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from jepack.errors import ArtifactError, ConfigError

SUFFIX = ".journal"
SCHEMA = 1
WAIT_S = 30.0  # for another process that is writing
LONGEST = 200  # signs of a label or a tag

LABEL, RELABEL, TAG, UNTAG = "label", "relabel", "tag", "untag"
LEAVE_OUT, TAKE_BACK = "leave out", "take back"
# `label`: says what an image is; an empty value says nothing again. `relabel`: the same, where the folder's
# label is held to be wrong. `tag`, `untag`: one of several words. `leave out`: of training, with a reason.
KINDS = (LABEL, RELABEL, TAG, UNTAG, LEAVE_OUT, TAKE_BACK)
NEED_A_VALUE = (RELABEL, TAG, UNTAG)

# Older journals have no `session`; it is added to them, and an older jepack goes on with them.
SESSION = "ALTER TABLE actions ADD COLUMN session TEXT NOT NULL DEFAULT ''"
TABLES = """
CREATE TABLE IF NOT EXISTS actions (
  number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, who TEXT NOT NULL, kind TEXT NOT NULL,
  value TEXT NOT NULL, undone TEXT, session TEXT NOT NULL DEFAULT '') STRICT;
CREATE TABLE IF NOT EXISTS images (
  action INTEGER NOT NULL REFERENCES actions(number), image TEXT NOT NULL, PRIMARY KEY (action, image)
  ) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Action:
    """What one person did in one step, to one image or to many."""

    number: int  # ascends
    at: str  # ISO 8601, UTC
    who: str
    kind: str  # of KINDS
    value: str  # the label, the tag or the reason
    images: tuple[str, ...]  # ids
    undone: str | None = None  # when
    session: str = ""  # of the browser it came from, see visitor.py; "" where that was not kept

    def __str__(self) -> str:
        word = f" “{self.value}”" if self.value and self.kind != LEAVE_OUT else ""
        count = len(self.images)
        return f"{self.kind}{word}, {'1 image' if count == 1 else f'{count:,} images'}"


@dataclass(frozen=True)
class Standing:
    """What holds after all actions that were not undone, by image id."""

    labels: dict[str, str] = field(default_factory=dict)  # over those of the folders
    tags: dict[str, frozenset[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # with the reason
    version: tuple[int, int] = (
        0,
        0,
    )  # the newest action, how many are undone: tells two standings apart

    def label(self, image: str, folder: str | None = None) -> str | None:
        """What the image is called now; `folder` is the label it was indexed with."""
        return self.labels.get(image, folder)


class Journal:
    """The journal of the index at `folder`; made with the first action, empty until then.

    For all threads of a process, and for several processes at once. Raises ArtifactError for a file that is
    no journal, or that may not be written. `asks`: who acts now, "" for the user of this process; where it
    names one, that one's actions alone are undone.
    """

    def __init__(self, folder: Path | str, asks: Callable[[], str] = str) -> None:
        self.asks = asks
        folder = Path(folder).absolute()
        self.path = folder.with_name(folder.name + SUFFIX)
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def add(
        self,
        kind: str,
        images: Collection[str],
        value: str = "",
        *,
        who: str = "",
        session: str = "",
        at: str = "",
    ) -> int:
        """One action over `images` (ids); its number. Kept on the disk when this returns.

        `value`: the label, tag or reason. `who`: else who asks. `session`: of whose browser it
        is, see visitor.py. `at`: when, the same for actions that one
        click made and one undo takes back; else now. Raises ConfigError.
        """
        ids, value = list(dict.fromkeys(images)), " ".join(value.split())
        if kind not in KINDS:
            raise ConfigError(f"{kind!r} is no action of a journal. There are: {', '.join(KINDS)}")
        if not ids:
            raise ConfigError(f"{kind}: no image was chosen. Choose one first.")
        if kind in NEED_A_VALUE and not value:
            raise ConfigError(f"{kind}: no word was given. Type one first.")
        if len(value) > LONGEST:
            raise ConfigError(f"{kind}: {len(value)} signs, at most {LONGEST}. Use a shorter one.")
        with self._writing() as db:
            row = (at or now(), who or self.asks() or user(), kind, value, session)
            made = db.execute(
                "INSERT INTO actions (at, who, kind, value, session) VALUES (?, ?, ?, ?, ?)", row
            )
            number = int(made.lastrowid or 0)
            db.executemany("INSERT INTO images VALUES (?, ?)", [(number, one) for one in ids])
        return number

    def undo(self, *, who: str | None = None, session: str | None = None) -> Action | None:
        """Take back the newest action that stands (of `who`, of `session`, where named) and the others of its
        click; None where there is none."""
        if not self.path.exists():
            return None
        if self.asks():  # whoever has logged in is known in any browser
            who, session = who or self.asks(), None
        with self._writing() as db:
            found = db.execute(
                "SELECT max(number) FROM actions WHERE undone IS NULL "
                "AND who = coalesce(?, who) AND session = coalesce(?, session)",
                (who, session),
            ).fetchone()[0]
            if found is None:
                return None
            together = db.execute(
                "SELECT a.number FROM actions a JOIN actions b ON b.number = ? AND a.at = b.at "
                "AND a.who = b.who AND a.session = b.session WHERE a.undone IS NULL",
                (found,),
            ).fetchall()
            db.executemany(
                "UPDATE actions SET undone = ? WHERE number = ?",
                [(now(), one) for (one,) in together],
            )
        marks = ", ".join("?" * len(together))
        taken = self._read(f"WHERE number IN ({marks})", tuple(one for (one,) in together))
        values = {one.value for one in taken}
        images = tuple(name for one in taken for name in one.images)
        return replace(taken[-1], images=images, value=values.pop() if len(values) == 1 else "")

    def newest(self) -> Action | None:
        """The newest action that stands, whoever did it."""
        found = self._read(
            "WHERE number = (SELECT max(number) FROM actions WHERE undone IS NULL)", ()
        )
        return found[0] if found else None

    def actions(self, most: int | None = None) -> list[Action]:
        """Oldest first, the undone too; `most`: only so many of the newest."""
        if most is None:
            return self._read("", ())
        return self._read(
            "WHERE number > (SELECT coalesce(max(number), 0) FROM actions) - ?", (most,)
        )

    def stands(self) -> Standing:
        """What holds now."""
        every = self._read("", ())
        labels, left_out = dict[str, str](), dict[str, str]()
        tags: dict[str, set[str]] = {}
        for action in every:
            if action.undone is not None:
                continue
            for image in action.images:
                if action.kind in (LABEL, RELABEL):
                    labels[image] = action.value
                elif action.kind == TAG:
                    tags.setdefault(image, set()).add(action.value)
                elif action.kind == UNTAG:
                    tags.get(image, set()).discard(action.value)
                elif action.kind == LEAVE_OUT:
                    left_out[image] = action.value
                else:
                    left_out.pop(image, None)
        return Standing(
            {image: label for image, label in labels.items() if label},
            {image: frozenset(words) for image, words in tags.items() if words},
            left_out,
            (every[-1].number if every else 0, sum(one.undone is not None for one in every)),
        )

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _read(self, where: str, values: Sequence[object]) -> list[Action]:
        if not self.path.exists():
            return []
        with self._open() as db:
            # One statement, so that no writer comes between the two tables.
            rows = db.execute(
                "SELECT number, at, who, kind, value, undone, session, image FROM actions JOIN images "
                f"ON action = number {where} ORDER BY number, image",
                values,
            ).fetchall()
        found: dict[int, list[str]] = {}
        told = {}
        for number, *rest, image in rows:
            found.setdefault(number, []).append(image)
            told[number] = rest
        return [
            Action(number, at, who, kind, value, tuple(found[number]), undone, session)
            for number, (at, who, kind, value, undone, session) in told.items()
        ]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, of which all or nothing is kept."""
        with self._open() as db:
            db.execute(
                "BEGIN IMMEDIATE"
            )  # now, not at the first write: two readers could not both go on
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._db is None:
                    self._db = connected(self.path)
                yield self._db
            except sqlite3.Error as error:
                raise ArtifactError(
                    f"{self.path}: the journal of this index cannot be used ({error}). Nothing that was kept "
                    "is changed. See that its folder may be written, or move the file aside to begin anew."
                ) from error


def connected(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.Error."""
    db = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        with suppress(sqlite3.OperationalError):  # another process is just doing it
            db.execute(
                "PRAGMA journal_mode=WAL"
            )  # a file system that cannot keeps its own, safe too
        db.execute("PRAGMA synchronous=FULL")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.execute("BEGIN IMMEDIATE")
            for statement in filter(str.strip, TABLES.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version={SCHEMA}")
            db.execute("COMMIT")
        elif version != SCHEMA:
            raise sqlite3.DatabaseError(f"schema {version}, this jepack reads {SCHEMA}")
        elif not has_sessions(db):
            db.execute("BEGIN IMMEDIATE")
            if not has_sessions(db):  # another process was just doing it
                db.execute(SESSION)
            db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def has_sessions(db: sqlite3.Connection) -> bool:
    return any(column == "session" for _, column, *_ in db.execute("PRAGMA table_info(actions)"))


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def user() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "somebody"
