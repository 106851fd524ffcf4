"""Secrets at rest: AES-256-GCM under a host key that lives outside the database.

A copy of the database alone gives nobody a secret; a copy of database and host key gives all. Every ciphertext names the
key it is under, so that a new host key can be made while the old one still opens what it sealed, and is bound to the
place it was written for, so that a row cannot be moved to another tenant or name.
"""

from __future__ import annotations

import base64
import os
import secrets
import stat
import threading
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ...errors import ConfigurationError, StoreError

_KEY_BYTES = 32
_NONCE_BYTES = 12


class Secret:
    """A text that does not show itself: not by repr, str, format or pickle."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('…')"

    def __reduce__(self) -> str:
        raise TypeError("A secret is not pickled; pass what reveal() gives, where it is meant to go.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and secrets.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return id(self)


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A ciphertext as stored; `key` is the id of the host key, the rest base64."""

    key: str
    nonce: str
    data: str


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    schema: int = 1
    current: str
    keys: dict[str, bytes]  # base64 in the file


class HostKeys:
    """The host's keys by id; the current one seals, all open.

    Args:
        keys: 32 bytes each, by id.
        current: the id of the one that seals.

    Raises:
        ConfigurationError: a key of another length, or no current one.
    """

    def __init__(self, keys: dict[str, bytes], current: str, *, path: Path | None = None) -> None:
        if current not in keys or any(len(key) != _KEY_BYTES for key in keys.values()):
            raise ConfigurationError("The host key is not usable.", hint=f"Keys have {_KEY_BYTES} bytes.")
        self._keys = dict(keys)
        self._path = path
        self._lock = threading.Lock()
        self.current = current

    def __repr__(self) -> str:
        return f"HostKeys(current={self.current!r}, {len(self._keys)} keys)"

    @classmethod
    def given(cls, text: str) -> HostKeys:
        """One key from base64 text, as a secret manager hands it over."""
        try:
            key = base64.b64decode(text, validate=True)
        except ValueError:
            key = b""
        return cls({"given": key}, "given")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HostKeys:
        """The keys in a file of mode 0600, which is made, with a first key, if there is none.

        Raises:
            ConfigurationError: the file is readable by others, or is no key file.
        """
        path = Path(path)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            name = _new_id()
            fresh = _File(current=name, keys={name: secrets.token_bytes(_KEY_BYTES)})
            part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            try:
                _write(part, fresh)
                os.link(part, path)  # whoever comes second keeps the first one's
            except FileExistsError:
                pass
            finally:
                part.unlink(missing_ok=True)
        found = _read(path)
        return cls(found.keys, found.current, path=path)

    def rotate(self) -> str:
        """Make a new key and seal with it from now on; returns its id. Only of keys that live in a file."""
        if self._path is None:
            raise ConfigurationError("A given host key is rotated where it comes from.", hint="Use a key file.")
        with self._lock:
            found = _read(self._path)
            name = _new_id()
            found.keys[name] = secrets.token_bytes(_KEY_BYTES)
            found.current = name
            part = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
            _write(part, found)
            part.replace(self._path)
            self._keys, self.current = found.keys, name
        return name

    def forget(self, name: str) -> None:
        """Drop an old key for good: what it sealed and was not sealed anew is lost."""
        if self._path is None or name == self.current:
            raise ConfigurationError("The current host key cannot be dropped.", hint="Rotate first.")
        with self._lock:
            found = _read(self._path)
            found.keys.pop(name, None)
            part = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
            _write(part, found)
            part.replace(self._path)
            self._keys = found.keys

    def get(self, name: str) -> bytes | None:
        """A key by id; the file is read again if it is not known, since another process may have rotated."""
        key = self._keys.get(name)
        if key is None and self._path is not None:
            with self._lock:
                found = _read(self._path)
                self._keys, self.current = found.keys, found.current
            key = self._keys.get(name)
        return key


class Vault:
    """Seals and opens. Synchronous, a few microseconds, thread-safe."""

    def __init__(self, keys: HostKeys) -> None:
        self.keys = keys

    def seal(self, text: str, place: str) -> Sealed:
        """Encrypt `text` for `place` (tenant and row), without which it does not open."""
        name = self.keys.current
        key = self.keys.get(name)
        if key is None:  # dropped by another process between the two lines
            raise StoreError("The host key is gone.", hint="Restore the key file.")
        nonce = secrets.token_bytes(_NONCE_BYTES)
        data = AESGCM(key).encrypt(nonce, text.encode(), place.encode())
        return Sealed(key=name, nonce=base64.b64encode(nonce).decode(), data=base64.b64encode(data).decode())

    def open(self, sealed: Sealed, place: str) -> Secret:
        """Decrypt.

        Raises:
            StoreError: its key is not here, or the ciphertext was changed or moved.
        """
        key = self.keys.get(sealed.key)
        if key is None:
            raise StoreError(f"The host key {sealed.key!r} is not here.", hint="Restore the host's key file.")
        try:
            nonce, data = base64.b64decode(sealed.nonce, validate=True), base64.b64decode(sealed.data, validate=True)
            return Secret(AESGCM(key).decrypt(nonce, data, place.encode()).decode())
        except (InvalidTag, ValueError):
            raise StoreError("A sealed value does not open.", hint="It was changed, or belongs elsewhere.") from None


def _new_id() -> str:
    return f"hk-{secrets.token_hex(4)}"


def _read(path: Path) -> _File:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"The host key file cannot be read: {error.strerror}.", hint=str(path)) from None
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(handle).st_mode
        if stat.S_IMODE(mode) & 0o077 or not stat.S_ISREG(mode):
            raise ConfigurationError(f"The host key file {path} can be read by others.", hint="chmod 600 it.")
        try:
            return msgspec.json.decode(file.read(65_536), type=_File)
        except msgspec.MsgspecError:
            # `from None`: the cause could quote a key
            raise ConfigurationError(f"{path} is no host key file.", hint="Restore it from a backup.") from None


def _write(path: Path, content: _File) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(content))
        file.flush()
        os.fsync(handle)
