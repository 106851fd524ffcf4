"""A certificate for development, made on the spot: an authority of its own, and a certificate for this machine's names.

Clients trust it by ``SSL_CERT_FILE=<ca.pem>``. It is no certificate for anything that others can reach.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..errors import ConfigurationError, MissingDependencyError

#: how long one is good, and how close to its end it is made anew
_DAYS = 90
_RENEW_DAYS = 7
_NAMES = ("localhost", "127.0.0.1", "::1")


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """Files of a certificate: the chain, its key, and the authority that clients must trust (None: a public one)."""

    cert_file: Path
    key_file: Path
    ca_file: Path | None = None


def default_directory() -> Path:
    """Where one is kept: ``$XDG_CACHE_HOME/duologue/tls``, else ``~/.cache/duologue/tls``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "duologue" / "tls"


def development_certificate(names: Sequence[str] = (), directory: Path | None = None) -> Certificate:
    """The certificate in `directory` if it is good for `names` and this machine, else a new one there.

    Raises MissingDependencyError, ConfigurationError (a directory that cannot be written).
    """
    try:
        from cryptography import x509
    except ImportError as error:
        raise MissingDependencyError(
            "A development certificate needs the package cryptography.",
            hint="Install it with: pip install 'duologue[wires]', or give a certificate of your own.",
        ) from error
    where = directory or default_directory()
    wanted = tuple(dict.fromkeys([*_NAMES, *names]))
    made = Certificate(cert_file=where / "cert.pem", key_file=where / "key.pem", ca_file=where / "ca.pem")
    try:
        if all(path.is_file() for path in (made.cert_file, made.key_file, where / "ca.pem")):
            leaf = x509.load_pem_x509_certificates(made.cert_file.read_bytes())[0]
            san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            known = {str(entry.value) for entry in san}
            left = leaf.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
            if known >= set(wanted) and left.days >= _RENEW_DAYS:
                return made
        where.mkdir(parents=True, exist_ok=True)
        _make(wanted, made, where / "ca.pem")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"No certificate can be kept in {where}: {error}.", hint="Choose another directory."
        ) from None
    return made


def _make(names: Sequence[str], files: Certificate, ca_file: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=_DAYS)
    since = now - datetime.timedelta(hours=1)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(until)
        )

    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = name("Duologue development authority")
    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    signs = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    ca = (
        builder(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(signs, critical=True)
        .add_extension(ca_id, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = (
        builder(name(names[0]), ca_name, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general(entry) for entry in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files.key_file.unlink(missing_ok=True)
    with open(os.open(files.key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(secret)
    files.cert_file.write_bytes(leaf.public_bytes(pem) + ca.public_bytes(pem))
    ca_file.write_bytes(ca.public_bytes(pem))


def _general(entry: str):  # type: ignore[no-untyped-def]
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(entry))
    except ValueError:
        return x509.DNSName(entry)
