"""Certificates as an API server of Kubernetes has them: a CA's own, and one for its host."""

import datetime as dt
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

VALIDITY = dt.timedelta(hours=2)


def certificate(host: str, valid_in: dt.timedelta, *, bare: bool = False) -> tuple[str, bytes]:
    """Make a CA and a certificate of it for `host`: the CA's PEM, and certificate with key."""
    start = dt.datetime.now(dt.UTC) + valid_in
    authority, authority_key = _sign("kubernetes of a test", start, bare=bare)
    own, key = _sign("kube-apiserver", start, host, (authority, authority_key), bare=bare)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem = serialization.Encoding.PEM
    return authority.public_bytes(pem).decode(), own.public_bytes(pem) + secret


def _sign(
    called: str,
    start: dt.datetime,
    host: str | None = None,
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
    *,
    bare: bool,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Make a key and its certificate: for `host` by an authority, else an authority's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, called)])
    issuer, signer = (authority[0].subject, authority[1]) if authority else (name, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + VALIDITY)
        .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), True)
    )
    if not bare:
        builder = _with_usage(builder, key.public_key(), signer.public_key(), signs=host is None)
    if host is not None:
        names = [x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("kubernetes.default.svc")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    return builder.sign(signer, hashes.SHA256()), key


def _with_usage(
    builder: x509.CertificateBuilder,
    own: ec.EllipticCurvePublicKey,
    issuer: ec.EllipticCurvePublicKey,
    *,
    signs: bool,
) -> x509.CertificateBuilder:
    usage = dict.fromkeys(
        ("content_commitment", "data_encipherment", "encipher_only", "decipher_only",
         "key_agreement", "key_encipherment"), False,
    )  # fmt: skip
    usage |= {"digital_signature": True, "key_cert_sign": signs, "crl_sign": signs}
    return (
        builder.add_extension(x509.KeyUsage(**usage), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), False)
    )
