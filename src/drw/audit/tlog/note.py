"""Signed notes and checkpoints of the log, verifiable with any C2SP tool.

https://c2sp.org/signed-note and https://c2sp.org/tlog-checkpoint, with Ed25519.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from drw.kernel.errors import InvalidRequest

ED25519 = b"\x01"
PRIVATE = "PRIVATE+KEY+"


class InvalidNote(InvalidRequest):
    """The text is not a valid signed note, checkpoint or key."""


class WrongSignature(InvalidRequest):
    """The note is not signed by the key."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Size and root of a log."""

    origin: str
    size: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Parse the text of a note as a checkpoint; lines after the third are extensions, which are ignored."""
        origin, size, root, *_ = [*text.split("\n"), "", ""]
        if not origin or not size.isascii() or not size.isdigit() or (size[0] == "0" and size != "0"):
            raise InvalidNote(
                f"a checkpoint has an origin, a size and a root, each on a line; this begins {text[:80]!r}"
            )
        if len(decoded := _from_base64(root)) != sha256().digest_size:
            raise InvalidNote(f"the root of a checkpoint is 32 bytes in base64, and not {root[:80]!r}")
        return cls(origin, int(size), decoded)


class Verifier:
    """A public key with the name of its log."""

    def __init__(self, name: str, key: bytes) -> None:
        if not name or "+" in name or any(c.isspace() for c in name):
            raise InvalidNote(f"the name of a log has no spaces and no plus sign; {name!r} does")
        self.name = name
        self._key = key
        self._public = Ed25519PublicKey.from_public_bytes(key)

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Parse a verifier key: `name+hash+base64`."""
        name, _, remainder = text.strip().partition("+")
        hash_, _, encoded = remainder.partition("+")
        key = _from_base64(encoded)
        if key[:1] != ED25519 or len(key) != 33:
            raise InvalidNote(f"{text.strip()[:200]!r} is not an Ed25519 verifier key: name+hash+base64")
        verifier = cls(name, key[1:])
        if verifier.key_id.hex() != hash_:
            raise InvalidNote(f"the hash in the verifier key {text.strip()[:200]!r} is not the one of its key")
        return verifier

    @property
    def key_id(self) -> bytes:
        """Four bytes that identify the key in a signature."""
        return sha256(self.name.encode() + b"\n" + ED25519 + self._key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_base64(ED25519 + self._key)}"

    def open(self, note: str) -> Checkpoint:
        """Verify a signed note and return its checkpoint.

        Raises:
            InvalidNote: the note is invalid, or belongs to another log.
            WrongSignature: the note is not signed by this key.
        """
        text, blank, signatures = note.rpartition("\n\n")
        if not blank or not note.endswith("\n"):
            raise InvalidNote("a signed note is a text, an empty line, and lines of signatures")
        signed_text = f"{text}\n"
        for line in signatures.splitlines():
            if self._is_signature(signed_text, line):
                checkpoint = Checkpoint.parse(signed_text)
                if checkpoint.origin != self.name:
                    raise InvalidNote(f"the checkpoint is of {checkpoint.origin!r}, and not of {self.name!r}")
                return checkpoint
        raise WrongSignature(f"the note is not signed by the key {self}")

    def _is_signature(self, text: str, line: str) -> bool:
        dash, _, remainder = line.partition(" ")
        name, _, encoded = remainder.partition(" ")
        signature = _from_base64(encoded)
        if dash != "\u2014" or name != self.name or signature[:4] != self.key_id:
            return False
        try:
            self._public.verify(signature[4:], text.encode())
        except InvalidSignature:
            return False
        return True


class Signer:
    """The private key of a log with its name."""

    def __init__(self, name: str, seed: bytes) -> None:
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = Verifier(name, self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, name: str) -> Signer:
        """Generate a new key."""
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Parse the output of `secret_text`."""
        name, _, remainder = text.strip().removeprefix(PRIVATE).partition("+")
        seed = _from_base64(remainder.partition("+")[2])
        if not text.startswith(PRIVATE) or seed[:1] != ED25519 or len(seed) != 33:
            raise InvalidNote("this is not the private key of a log")
        return cls(name, seed[1:])

    def secret_text(self) -> str:
        """Return the private key in the format of Go's note package."""
        verifier = self.verifier
        return f"{PRIVATE}{verifier.name}+{verifier.key_id.hex()}+{_base64(ED25519 + self._seed)}"

    def sign(self, size: int, root: bytes) -> str:
        """Return the signed checkpoint of a tree; deterministic."""
        verifier = self.verifier
        text = str(Checkpoint(verifier.name, size, root))
        signature = verifier.key_id + self._key.sign(text.encode())
        return f"{text}\n\u2014 {verifier.name} {_base64(signature)}\n"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
