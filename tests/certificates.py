"""Certificates for the tests: an authority, and what it issues, as PEM files.

What lives here: making keys and certificates with the package ``cryptography``. What must not: TLS connections,
assertions. Keys are of the curve P-256, since those take a millisecond to make.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_DAYS = 2
"""Days that a certificate is valid, before and after now: a clock may be a little off."""


class Issued(NamedTuple):
    """A certificate and its private key, as paths of PEM files (str, as every library takes them)."""

    cert: str
    key: str


@dataclass(frozen=True)
class Authority:
    """A certificate authority of its own; ``ca`` is the path of its certificate, which clients and servers trust."""

    ca: str
    directory: Path
    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey

    def issue(self, name: str, *names: str, client: bool = False, expired: bool = False) -> Issued:
        """Issue a certificate for ``name`` (and ``names``): host names and IP addresses.

        ``client``: for a client, whose common name is ``name``; it is no good for a server, and the other way round.
        ``expired``: it was valid until yesterday. Issue the same name twice and the files are written anew.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        alternatives = x509.SubjectAlternativeName([_general(each) for each in (name, *names)])
        builder = (
            _builder(name, self.certificate.subject, key, -1 if expired else VALID_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(alternatives, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.private_key.public_key()), critical=False
            )
        )
        stem = f"{name.replace(':', '-')}{'-client' if client else ''}{'-expired' if expired else ''}"
        paths = Issued(str(self.directory / f"{stem}.pem"), str(self.directory / f"{stem}.key"))
        _write(paths, builder.sign(self.private_key, hashes.SHA256()), key)
        return paths


def make_ca(directory: Path, name: str = "ca") -> Authority:
    """Make an authority whose files are in ``directory``/``name``; another name is another authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Inlet's tests, {name}")])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _builder(f"Inlet's tests, {name}", subject, key, VALID_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    home = directory / name
    home.mkdir(parents=True, exist_ok=True)
    certificate = builder.sign(key, hashes.SHA256())
    _write(Issued(str(home / "ca.pem"), str(home / "ca.key")), certificate, key)
    return Authority(str(home / "ca.pem"), home, certificate, key)


def issue(authority: Authority, name: str, *names: str, client: bool = False, expired: bool = False) -> Issued:
    """Issue a certificate; see ``Authority.issue``."""
    return authority.issue(name, *names, client=client, expired=expired)


def localhost(directory: Path) -> tuple[str, Issued]:
    """Return the path of an authority's certificate, and what it has issued for localhost and 127.0.0.1."""
    authority = make_ca(directory)
    return authority.ca, authority.issue("localhost", "127.0.0.1")


def _builder(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days_left: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=VALID_DAYS))
        .not_valid_after(now + datetime.timedelta(days=days_left))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(paths: Issued, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    Path(paths.key).touch(mode=0o600)
    Path(paths.key).write_bytes(private)
    Path(paths.cert).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
