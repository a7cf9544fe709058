"""An authority of the test's own, and certificates that it signs."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = ipaddress.ip_address("127.0.0.1")


class Authority:
    """Its own certificate is the file `certificate`."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._name = _name(f"{name} of the tests")
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = self._signed(self._name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.certificate = directory / f"{name}.crt"
        self.certificate.write_bytes(_text(own.sign(self._key, hashes.SHA256())))

    def issue(self, host: str = "localhost") -> tuple[Path, Path]:
        """A certificate for `host` and 127.0.0.1, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(LOOPBACK)])
        made = self._signed(_name(host), key).add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        certificate, key_file = self._directory / f"{host}.crt", self._directory / f"{host}.key"
        certificate.write_bytes(_text(made))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, key_file

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _text(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
