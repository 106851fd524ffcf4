"""What is at rest: keys, secrets, the vault under them."""

from __future__ import annotations

import json
import pickle
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import ConfigurationError, StoreError
from duologue.host.auth import Audit, HostKeys, Keys, Secret, Secrets, Vault, secret_name
from duologue.host.types import Grant
from duologue.store import SQLiteStore

from .helpers import OTHER, TENANT, Clock


class Rest:
    """A store in a file, and what lies in it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "host.db"
        self.key_path = folder / "host.key"
        self.store = SQLiteStore(self.path)
        self.clock = Clock()
        self.host_keys = HostKeys.load(self.key_path)
        self.vault = Vault(self.host_keys)
        self.audit = Audit(self.store, clock=self.clock)
        self.keys = Keys(self.store, self.vault, self.audit, clock=self.clock)
        self.secrets = Secrets(self.store, self.vault, self.audit, clock=self.clock)

    def on_disk(self) -> bytes:
        self.audit.flush()
        return b"".join(path.read_bytes() for path in self.path.parent.glob("host.db*"))


@pytest.fixture
def rest(tmp_path: Path) -> Rest:
    return Rest(tmp_path)


# -- the vault ---------------------------------------------------------------------------------------------------------


@given(text=st.text(max_size=200), place=st.text(max_size=20), other=st.text(max_size=20))
def test_what_is_sealed_opens_at_its_place_only(text: str, place: str, other: str) -> None:
    vault = Vault(HostKeys({"a": b"a" * 32}, "a"))
    sealed = vault.seal(text, place)
    assert vault.open(sealed, place).reveal() == text
    assert sealed != vault.seal(text, place)
    if other != place:
        with pytest.raises(StoreError, match="does not open"):
            vault.open(sealed, other)
    with pytest.raises(StoreError, match="does not open"):
        Vault(HostKeys({"a": b"b" * 32}, "a")).open(sealed, place)
    with pytest.raises(StoreError, match="is not here"):
        Vault(HostKeys({"b": b"a" * 32}, "b")).open(sealed, place)


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret == Secret("hunter2") != Secret("hunter3")


def test_the_host_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "host.key"
    first = HostKeys.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    sealed = Vault(first).seal("text", "place")
    again = HostKeys.load(path)
    assert again.current == first.current
    assert Vault(again).open(sealed, "place").reveal() == "text"
    assert [p.name for p in path.parent.iterdir()] == ["host.key"]


def test_a_host_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "host.key"
    HostKeys.load(path)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="can be read by others"):
        HostKeys.load(path)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"current": "a", "keys": {"a": "c2hvcnQ="}}', '{"current": "b", "keys": {}}']
)
def test_a_file_that_holds_no_host_key_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "host.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError) as error:
        HostKeys.load(path)
    assert "c2hvcnQ" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_link_is_no_host_key_file(tmp_path: Path) -> None:
    HostKeys.load(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        HostKeys.load(tmp_path / "link")


def test_a_given_host_key_must_have_its_length() -> None:
    with pytest.raises(ConfigurationError):
        HostKeys.given("c2hvcnQ=")
    with pytest.raises(ConfigurationError):
        HostKeys.given("no base64!")
    assert HostKeys.given("QUFB" * 10 + "QUE=").current == "given"


def test_rotation_seals_anew_and_other_processes_follow(rest: Rest) -> None:
    other = Vault(HostKeys.load(rest.key_path))
    access = rest.keys.create("access", TENANT)
    rest.secrets.put(TENANT, "token", "value")
    old = rest.host_keys.current
    assert rest.host_keys.rotate() != old
    assert other.open(rest.vault.seal("x", "p"), "p").reveal() == "x"
    assert (rest.keys.reseal(), rest.secrets.reseal(TENANT)) == (1, 1)
    assert (rest.keys.reseal(), rest.secrets.reseal(TENANT)) == (0, 0)
    rest.host_keys.forget(old)
    found = rest.keys.access(access.key.id)
    assert found is not None
    assert found[1] == access.secret
    assert rest.secrets.resolve(TENANT, ["token"])["token"].reveal() == "value"
    assert list(json.loads(rest.key_path.read_text())["keys"]) == [rest.host_keys.current]
    with pytest.raises(ConfigurationError, match="cannot be dropped"):
        rest.host_keys.forget(rest.host_keys.current)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_new_key_gets_invoke_and_its_secret_is_nowhere(rest: Rest, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    made = [rest.keys.create("access", TENANT), rest.keys.create("api", TENANT)]
    kept = rest.on_disk() + caplog.text.encode() + repr(made).encode()
    for new in made:
        assert new.key.grants == (Grant(role="invoke"),)
        assert new.key.subject == new.key.id
        assert new.secret.reveal().encode() not in kept
        assert new.key.id.encode() in kept


def test_keys_are_found_by_what_was_shown_and_nothing_near(rest: Rest) -> None:
    access, api = rest.keys.create("access", TENANT), rest.keys.create("api", TENANT)
    found = rest.keys.access(access.key.id)
    assert found is not None
    assert found == (access.key, access.secret)
    text = api.secret.reveal()
    assert rest.keys.api(text) == api.key
    near = text[:-1] + ("A" if text[-1] != "A" else "B")
    for wrong in (near, text[:-1], text + "A", text.upper(), "", "dlk_", f"dlk_{access.key.id}_{'a' * 43}", api.key.id):
        assert rest.keys.api(wrong) is None
    for id in (api.key.id, access.key.id.lower(), access.key.id[:-1], "", "DLAK" + "A" * 16, "../x"):
        assert rest.keys.access(id) is None


def test_a_revoked_key_is_over_at_once_and_its_secret_erased(rest: Rest) -> None:
    for kind in ("access", "api"):
        new = rest.keys.create(kind, TENANT)
        assert not rest.keys.revoke(OTHER, new.key.id)
        assert rest.keys.revoke(TENANT, new.key.id)
        assert rest.keys.revoke(TENANT, new.key.id)
        assert rest.keys.access(new.key.id) is None
        assert rest.keys.api(new.secret.reveal()) is None
        row = rest.store.get(TENANT, f"auth/key/{new.key.id}")
        assert row is not None
        assert (row.value["sealed"], row.value["sha256"]) == (None, "")
    assert [key.revoked for key in rest.keys.list_keys(TENANT)] == [rest.clock.now] * 2
    assert not rest.keys.revoke(TENANT, "nobody")


def test_a_key_ends_at_its_time(rest: Rest) -> None:
    new = rest.keys.create("api", TENANT, expires=rest.clock.now + 10)
    assert rest.keys.api(new.secret.reveal()) is not None
    rest.clock.now += 10
    assert rest.keys.api(new.secret.reveal()) is None


def test_a_tenant_lists_its_own_keys_only(rest: Rest) -> None:
    mine, other = rest.keys.create("api", TENANT, label="mine"), rest.keys.create("api", OTHER)
    assert rest.keys.list_keys(TENANT) == [mine.key]
    assert rest.keys.list_keys(OTHER) == [other.key]


@pytest.mark.parametrize(
    "options",
    [
        {"tenant": "_host"},
        {"tenant": "a/b"},
        {"tenant": ""},
        {"subject": "a/b"},
        {"subject": "a\nb"},
        {"label": "a\nb"},
        {"grants": ()},
        {"grants": (Grant(role="root"),)},  # type: ignore[arg-type]
        {"grants": (Grant(role="invoke", runtime="a/b"),)},
        {"kind": "other"},
        {"expires": 0.0},
        {"expires": float("nan")},
    ],
)
def test_keys_that_cannot_be_are_refused(rest: Rest, options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        rest.keys.create(**{"kind": "api", "tenant": TENANT, **options})  # type: ignore[arg-type]


def test_a_ciphertext_does_not_move_to_another_row(rest: Rest) -> None:
    mine, other = rest.keys.create("access", TENANT), rest.keys.create("access", TENANT)
    rows = [rest.store.get(TENANT, f"auth/key/{new.key.id}") for new in (mine, other)]
    assert rows[0] is not None
    assert rows[1] is not None
    rest.store.put(TENANT, rows[0].key, {**rows[0].value, "sealed": rows[1].value["sealed"]})
    with pytest.raises(StoreError, match="does not open"):
        rest.keys.access(mine.key.id)


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_a_secret_is_written_listed_delivered_and_erased(rest: Rest) -> None:
    rest.secrets.put(TENANT, "b.key", "hunter2-value", by="admin")
    rest.secrets.put(TENANT, "a", "other")
    assert [found.name for found in rest.secrets.names(TENANT)] == ["a", "b.key"]
    assert rest.secrets.resolve(TENANT, ["b.key"], to="worker-1")["b.key"].reveal() == "hunter2-value"
    assert rest.secrets.names(OTHER) == []
    with pytest.raises(ConfigurationError, match="no secret"):
        rest.secrets.resolve(OTHER, ["b.key"])
    assert b"hunter2-value" not in rest.on_disk()
    assert rest.secrets.delete(TENANT, "b.key")
    assert not rest.secrets.delete(TENANT, "b.key")
    rest.audit.flush()
    entries = list(rest.audit.entries(TENANT))
    assert [(e.action, e.actor, e.subject) for e in entries] == [
        ("secret.put", "admin", "b.key"),
        ("secret.put", "", "a"),
        ("secret.deliver", "worker-1", "b.key"),
        ("secret.delete", "", "b.key"),
    ]


def test_references_name_secrets() -> None:
    assert secret_name("secret://api.key-1") == "api.key-1"
    assert secret_name("a plain value") is None
    for wrong in ("secret://", "secret://../x", "secret://a/b", "secret://1a"):
        with pytest.raises(ConfigurationError):
            secret_name(wrong)


def test_a_secret_has_a_bound(rest: Rest) -> None:
    with pytest.raises(ConfigurationError, match="too long"):
        rest.secrets.put(TENANT, "a", "x" * 65_537)
