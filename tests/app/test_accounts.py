"""Accounts of the page: their file, their hashes, what the options say, and what a wrong password costs."""

from __future__ import annotations

import hashlib
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from typer.testing import CliRunner

from app.door import Accounts, Door, Hash
from app.door.guard import Guard
from app.door.options import new_password
from app.door.sessions import IDLE_S, LONGEST_S, Attempts, Sessions
from jepack.cli import app as jepack
from jepack.errors import ConfigError

PASSWORD = "a horse, a battery"
CHEAP = {"ln": 14, "r": 8, "p": 1}
LINE = f"anna:{Hash.of(PASSWORD, **CHEAP)}"


def file_of(folder: Path, text: str, mode: int = 0o600) -> str:
    file = folder / "accounts"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def test_a_hash_is_scrypt_as_others_write_it() -> None:
    """The second example of RFC 7914, section 12, as passlib writes it."""
    known = hashlib.scrypt(b"password", salt=b"NaCl", n=1024, r=8, p=16, dklen=64)
    made = Hash(10, 8, 16, b"NaCl", known)
    assert known.hex().startswith("fdbabe1c9d3472007856e7190d01e9fe")
    assert made.opened_by("password")
    assert not made.opened_by("Password")
    text = str(Hash.of(PASSWORD, **CHEAP))
    assert str(Hash.parse(text)) == text
    assert Hash.parse(text).opened_by(PASSWORD)
    assert text != str(Hash.of(PASSWORD, **CHEAP))  # another salt


def test_letters_composed_otherwise_are_the_same_password() -> None:
    assert Hash.of("caf\u00e9 au lait", **CHEAP).opened_by("cafe\u0301 au lait")


def test_accounts_come_from_the_option_or_from_a_file(tmp_path: Path) -> None:
    other = f"bo.b@lab:{Hash.of('another one', **CHEAP)}"
    for text in (LINE, file_of(tmp_path, f"# us two\n\n{LINE}\n{other}\n")):
        found = Accounts.chosen(text)
        assert found.opened_by("anna", PASSWORD)
        assert not found.opened_by("anna", "another one")
        assert not found.opened_by("nobody", PASSWORD)
        assert found.opened_by("bo.b@lab", "another one") == (text != LINE)


WRONG = {
    "a password in the clear": ("anna:secret-word", "line 2: holds no hash by scrypt for anna"),
    "another kind": ("anna:$2b$12$secretsecretsecret", "line 2: holds no hash by scrypt"),
    "no user": (":" + LINE.partition(":")[2], "line 2: is not USER:"),
    "no colon": (LINE.partition(":")[2], "line 2: is not USER:"),
    "a user with a space": ("an na" + LINE[4:], "line 2: is not USER:"),
    "cut off": (LINE[:-30], "line 2: holds no hash"),
    "too cheap": (LINE.replace("ln=14", "ln=5"), "line 2: holds a hash that is too cheap"),
    "no cost": (LINE.replace("ln=14", "ln=0"), "line 2: holds a hash that is too cheap"),
    "too dear": (LINE.replace("ln=14", "ln=40"), "line 2: holds a hash that takes too much"),
    "too slow": (LINE.replace("p=1", "p=99"), "line 2: holds a hash that takes too much"),
    "twice": (f"{LINE}\n{LINE}", "line 3: anna is there already"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_line_is_named_and_never_shown(what: str, tmp_path: Path) -> None:
    line, told = WRONG[what]
    with pytest.raises(ConfigError) as error:
        Accounts.chosen(file_of(tmp_path, f"# these\n{line}\n"))
    assert told in str(error.value)
    assert "--make-hash" in str(error.value) or what == "twice"
    secret = line.partition(":")[2] or line
    for part in (secret, secret.split("$")[-1]):
        assert part not in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("anna:secret-word", "what was given is neither a file nor USER:"),
        ("nowhere/accounts", "nowhere/accounts is neither a file nor USER:"),
        ("anna:", "neither a file"),
        ("an na:$scrypt$x", "--auth: is not USER:"),
        ("anna:$scrypt$secret", "--auth: holds no hash by scrypt for anna"),
    ],
)
def test_what_is_no_account_is_told_without_a_word_of_it(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        Accounts.chosen(text)
    assert told in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o660])
def test_a_file_that_others_may_read_or_change_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"mode {mode:o}.*chmod 600"):
        Accounts.chosen(file_of(tmp_path, LINE, mode))
    assert Accounts.chosen(file_of(tmp_path, LINE, 0o440))  # a secret that a cluster mounts


def test_an_empty_file_lets_nobody_in_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no USER:"):
        Accounts.chosen(file_of(tmp_path, "# none yet\n"))


REFUSED = {
    "others without accounts": ({"host": "0.0.0.0"}, "needs accounts: --auth"),
    "a name without accounts": ({"host": "gpu7"}, "needs accounts: --auth"),
    "all of IPv6": ({"host": "::"}, "needs accounts"),
    "nowhere": ({"host": ""}, "--host takes an address"),
    "with a port": ({"host": "127.0.0.1:80", "auth": LINE}, "the port goes to --port"),
    "with a scheme": ({"host": "http://127.0.0.1", "auth": LINE}, "--host takes an address"),
    "accounts for nobody": ({"auth": LINE}, "--auth goes with --host"),
    "public to anybody": ({"public_url": "https://a.example"}, "needs --auth"),
    "half a certificate": ({"tls_key": "key.pem"}, "belong together"),
    "no certificate": ({"tls_cert": __file__, "tls_key": __file__}, "no certificate with its"),
    "no address": ({"host": "::1", "auth": LINE, "public_url": "a.example"}, "--public-url takes"),
    "more": ({"host": "::1", "auth": LINE, "public_url": "https://a.b/?x"}, "--public-url takes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_options_that_would_open_too_much_or_nothing_are_refused(what: str) -> None:
    given, told = REFUSED[what]
    with pytest.raises(ConfigError, match=re.escape(told)):
        Door.of(**given)


def test_this_machine_alone_needs_no_account() -> None:
    for host in (None, "127.0.0.1", "127.0.0.2", "localhost", "::1", "[::1]"):
        assert Door.of(host).accounts is None
    assert Door.of("::1").host == Door.of("[::1]").host == "::1"


def asked_as(door: Door, host: str) -> int:
    """The status of a request that names us so; 200 where it may pass."""
    headers = [(b"host", host.encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "headers": headers}

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    answer = Guard(nothing, door, 1).from_elsewhere(Request(scope))
    return 200 if answer is None else answer.status_code


def test_a_page_for_all_networks_answers_to_addresses_and_to_names_that_it_was_told() -> None:
    every = Door.of("0.0.0.0", LINE, public_url="https://photos.example/jepack")
    one = Door.of("gpu7.lab.example", LINE)
    here = socket.gethostname()
    wanted = {
        "192.0.2.7": (200, 400), "[2001:db8::1]:7860": (200, 400), here: (200, 400),
        "photos.example": (200, 400), "GPU7.lab.example:7860": (400, 200), "evil.example": (400, 400),
        "192.0.2.7.evil.example": (400, 400), "": (400, 400), "localhost": (200, 200),
    }  # fmt: skip
    for host, (of_every, of_one) in wanted.items():
        assert (asked_as(every, host), asked_as(one, host)) == (of_every, of_one), host


def test_a_password_without_tls_is_a_warning_where_others_ask() -> None:
    assert "without TLS" in Door.of("192.0.2.1", LINE).warnings()[0]
    assert Door.of("127.0.0.1", LINE).warnings() == []
    behind = Door.of("192.0.2.1", LINE, public_url="https://photos.example/jepack/")
    assert (behind.warnings(), behind.secure) == ([], True)
    assert behind.told("http://192.0.2.1:7860") == "https://photos.example/jepack"


def test_the_command_refuses_before_it_opens_anything() -> None:
    done = CliRunner().invoke(jepack, ["app", "nowhere", "--host", "0.0.0.0"])
    assert isinstance(done.exception, ConfigError)
    assert "--make-hash USER" in str(done.exception)


def test_a_line_is_made_from_standard_input() -> None:
    done = CliRunner().invoke(jepack, ["app", "--make-hash", "anna"], input=f"{PASSWORD}\n")
    assert done.exit_code == 0
    assert PASSWORD not in done.output
    assert Accounts.chosen(done.stdout.strip()).opened_by("anna", PASSWORD)


def test_a_terminal_is_asked_twice_and_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [PASSWORD, PASSWORD, PASSWORD, "a house, a battery"]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: typed.pop(0))
    assert new_password() == PASSWORD
    with pytest.raises(ConfigError, match="differ"):
        new_password()
    assert PASSWORD not in "".join(capsys.readouterr())


def test_a_short_password_and_an_odd_user_are_refused() -> None:
    done = CliRunner().invoke(jepack, ["app", "--make-hash", "anna"], input="short\n")
    assert "5 signs; need 8" in str(done.exception)
    assert CliRunner().invoke(jepack, ["app", "--make-hash", "a:b"], input="x\n").exit_code == 2


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_wrong_passwords_of_an_address_wait_longer_and_longer() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    assert [attempts.begin("192.0.2.1", f"user {n}") for n in range(6)] == [0, 0, 0, 0, 1, 1]
    assert attempts.begin("192.0.2.2", "user 1") == 0
    assert attempts.begin("::ffff:192.0.2.1", "user 1") == 1  # the same, told otherwise
    waits = []
    for _ in range(14):
        waits.append(attempts.begin("192.0.2.1", "anna"))
        clock.now += waits[-1]
        assert attempts.begin("192.0.2.1", "anna") == 0
    assert waits == [*(2.0**n for n in range(10)), *4 * [900.0]]
    clock.now += 3601
    assert attempts.begin("192.0.2.1", "anna") == 0


def test_a_right_password_takes_back_those_of_its_own_user() -> None:
    attempts = Attempts(Clock())
    for _ in range(10):
        assert attempts.begin("192.0.2.1", "anna") == 0
        attempts.right("192.0.2.1", "anna")
    assert [attempts.begin("192.0.2.1", "bo") for _ in range(3)] == [0, 0, 0]
    assert attempts.begin("192.0.2.1", "anna") == 0
    attempts.right("192.0.2.1", "anna")
    assert [attempts.begin("192.0.2.1", "bo") for _ in range(2)] == [0, 1]


def test_an_ipv6_network_counts_as_one_address() -> None:
    attempts = Attempts(Clock())
    assert [attempts.begin(f"2001:db8::{n}", "a") for n in range(1, 6)] == [0, 0, 0, 0, 1]
    assert attempts.begin("2001:db8:0:1::1", "a") == 0


def test_a_session_ends_when_told_when_idle_and_after_a_week() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    ended, idle, week = (sessions.open("anna") for _ in range(3))
    assert sessions.user(ended) == "anna"
    sessions.close(ended)
    assert sessions.user(ended) is None
    assert sessions.user("") is None
    until = clock.now + LONGEST_S
    while clock.now < until:
        assert sessions.user(week) == "anna"
        clock.now += IDLE_S
    clock.now += 1
    assert sessions.user(week) is None
    assert sessions.user(idle) is None
