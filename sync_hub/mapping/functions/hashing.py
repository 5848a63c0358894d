"""Hashes, masking and names that are always the same: for keys and for personal data."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import uuid
from typing import Final

from sync_hub.mapping.faults import rejected
from sync_hub.mapping.functions.registry import define, overload
from sync_hub.mapping.values import parse_uuid

THEME: Final = "Hashes and masking"
_NAMESPACES: Final = {
    "dns": uuid.NAMESPACE_DNS,
    "url": uuid.NAMESPACE_URL,
    "oid": uuid.NAMESPACE_OID,
    "x500": uuid.NAMESPACE_X500,
}


@define(THEME, ["md5(text) → text"], "MD5 in hexadecimal digits.", {"md5('a')": "0cc175b9c0f1b6a831c399e269772661"})
def md5(text: str) -> str:
    """MD5 of the text in UTF-8."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


overload("md5(bytea) → text", lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest())


@define(
    THEME,
    ["sha256(text) → text"],
    "SHA-256 in hexadecimal digits.",
    {"left(sha256('a'), 16)": "ca978112ca1bbdca"},
    note="PostgreSQL's sha256 takes and gives bytea; this is `encode(sha256(x), 'hex')`. "
    "What can be guessed can be found again from its hash: use `hmac_sha256` for personal data.",
)
def sha256(text: str) -> str:
    """SHA-256 of the text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


overload("sha256(bytea) → text", lambda data: hashlib.sha256(data).hexdigest())


@define(
    THEME,
    ["hmac_sha256(text, text) → text"],
    "HMAC-SHA-256 with a key, in hexadecimal digits; the key is best a `secret('NAME')`.",
    {"left(hmac_sha256('+64 21', 'key'), 16)": "72831ff1c016e56a"},
    note="The hub's own function; pgcrypto's is `encode(hmac(x, key, 'sha256'), 'hex')`.",
)
def hmac_sha256(text: str, key: str) -> str:
    """Keyed hash of the text in UTF-8."""
    return hmac.new(key.encode(), text.encode(), "sha256").hexdigest()


@define(
    THEME,
    ["mask(text [, integer [, text]]) → text"],
    "Every character replaced by `*`, or by the third argument; the last n stay.",
    {"mask('4111111111111111', 4)": "************1111", "mask('Ada')": "***", "mask('Ada', 1, 'x')": "xxa"},
    note="The hub's own function. It is lossy: several values have the same mask.",
)
def mask(text: str, keep: int = 0, character: str = "*") -> str:
    """Hide all but the last characters."""
    hidden = max(len(text) - max(keep, 0), 0)
    return character[:1] * hidden + text[hidden:]


@define(
    THEME,
    ["uuid_v5(text, text) → uuid"],
    "The UUID (version 5) of a name in a namespace: `dns`, `url`, `oid`, `x500` or a UUID. Always the same.",
    {"uuid_v5('dns', 'example.com')": "cfbff0d1-9375-5685-968c-48ce8b15ae17"},
    note="The hub's own function; uuid-ossp's is `uuid_generate_v5`.",
)
def uuid_v5(namespace: str, name: str) -> str:
    """A UUID made of a name."""
    known = _NAMESPACES.get(namespace.lower())
    return str(uuid.uuid5(known or uuid.UUID(parse_uuid(namespace)), name))


overload("uuid_v5(uuid, text) → uuid", uuid_v5)


@define(
    THEME,
    ["encode(bytea, text) → text"],
    "Bytes as text: `hex` or `base64`.",
    {r"encode('\x4142'::bytea, 'base64')": "QUI="},
)
def encode(data: bytes, form: str) -> str:
    """Bytes to text."""
    if form.lower() == "hex":
        return data.hex()
    if form.lower() == "base64":
        text = base64.b64encode(data).decode()
        return "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    raise rejected("22023", "only hex and base64 are known")


@define(
    THEME,
    ["decode(text, text) → bytea"],
    "Text as bytes: `hex` or `base64`.",
    {"decode('4142', 'hex')": r"\x4142"},
)
def decode(text: str, form: str) -> bytes:
    """Text to bytes."""
    try:
        if form.lower() == "hex":
            return bytes.fromhex(text)
        if form.lower() == "base64":
            return base64.b64decode("".join(text.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise rejected("22023", f"the text is not {form.lower()}") from error
    raise rejected("22023", "only hex and base64 are known")
