"""Who gets in, who is in, who is out: what the enrolment service does, without gRPC, a clock or entropy of its own.

    enroller = Enroller(authority, registry, clock=..., entropy=os.urandom)
    token = enroller.invite()
    admission = enroller.admit(join)          # the device proved both keys and had a good token
    news = enroller.follow(Ask(size=7))

A token lets in one device. The same device, with the same keys, may ask again while the token lasts: an answer that was lost on
the way does not cost the invitation. Nobody else can: the answer is only good for whoever has the keys.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from earmark_server.authority import Authority
from earmark_server.registry import Device, Registry
from earmark_server.tls import DAY_S
from earmark_shared.crypto.certificates import ALIAS_SIZE, Certificate, issue, peek
from earmark_shared.crypto.enrol_log import Change, Head, cert_hash, revoked_hash, sign_head
from earmark_shared.crypto.identities import verify
from earmark_shared.crypto.merkle import consistency_proof, inclusion_proof, leaf_hash, tree_root
from earmark_shared.crypto.secrets import Entropy
from earmark_shared.enrolment import (
    CHALLENGE_SIZE,
    LEAVE_LABEL,
    PROTO,
    RENEW_LABEL,
    TOKEN_SIZE,
    Admission,
    Ask,
    Gone,
    Hello,
    Join,
    Leave,
    News,
    Renewal,
    Renewed,
    Root,
    pack,
    verify_join,
)
from earmark_shared.errors import AdmissionError, PhaseError, PolicyError, ProtocolError

TOKEN_LIFE_S = DAY_S
CERTIFICATE_LIFE_S = 365 * DAY_S
CHALLENGE_LIFE_S = 120
CHALLENGES_MOST = 4096
EPOCH = 1
NO_TOKEN = "the token is not known here, was used or has expired"  # noqa: S105  a sentence


class Enroller:
    """The enrolment authority at work."""

    def __init__(self, authority: Authority, registry: Registry, *, clock: Callable[[], float], entropy: Entropy) -> None:
        """Take the keys, the registry, a clock in Unix seconds and a source of secret bytes."""
        self.authority, self.registry = authority, registry
        self._clock, self._entropy = clock, entropy
        self._challenges: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()
        self.member_port: int | None = None
        """Where members really go, if it isn't what the settings say."""

    def invite(self) -> bytes:
        """Make a token for one device, 16 bytes, good for a day; only its hash stays here."""
        token, now_s = self._entropy(TOKEN_SIZE), int(self._clock())
        with self.registry.transaction():
            self.registry.forget_invitations(before_s=now_s - TOKEN_LIFE_S)
            self.registry.add_invitation(token, now_s=now_s, expires_s=now_s + TOKEN_LIFE_S)
        return token

    def greet(self, hello: Hello) -> Root:
        """Say who we are, and give a challenge to sign."""
        if hello.proto != PROTO:
            raise ProtocolError(f"enrolment version {hello.proto} is not spoken here, only {PROTO}")
        challenge = self._entropy(CHALLENGE_SIZE)
        with self._lock:
            self._challenges[challenge] = self._clock() + CHALLENGE_LIFE_S
            while len(self._challenges) > CHALLENGES_MOST:
                self._challenges.popitem(last=False)
        return self.authority.root(challenge, member_port=self.member_port)

    def admit(self, join: Join) -> Admission:
        """Let a device in.

        Raises:
            PhaseError: the challenge is not one of ours, or was answered before. SignatureError: a key is not proved.
            PolicyError: only one of the two is a lab. AdmissionError: the token is not good, or a key is known already.
        """
        self._answer(join.challenge)
        verify_join(join, self.authority.root(join.challenge).fingerprint())
        if join.is_lab != self.authority.settings.is_lab:
            raise PolicyError(
                "this federation is for lab homes only: join with --lab"
                if self.authority.settings.is_lab
                else "this federation takes no lab homes: join without --lab, with a library that never was one"
            )
        with self.registry.transaction():
            device = self._device_for(join)
        tls_cert = self.authority.tls.issue_client(device.node_key, device.alias, now_s=int(self._clock()))
        head, path = self._prove(device.log_index)
        return Admission(device.certificate, tls_cert, device.joined_s, head, device.log_index, path)

    def follow(self, ask: Ask) -> News:
        """Tell what happened since the log had `ask.size` entries; of one that never was so long there is no proof."""
        leaves, revoked, head = self._head()
        proof = consistency_proof(leaves, ask.size) if ask.size <= len(leaves) else []
        return News(head, pack(proof), revoked, self.authority.signed_plan_key())

    def renew(self, renewal: Renewal, device: Device) -> Renewed:
        """Give a device new certificates for the keys it has; SignatureError unless its identity asks.

        An enrolment certificate is made anew once half of its time is over. Nobody comes in by this, so the log doesn't grow.
        """
        verify(device.identity, renewal.sig, RENEW_LABEL, device.alias)
        now_s = int(self._clock())
        with self.registry.transaction():
            certificate = self._enrolled(device.alias).certificate
            if now_s > peek(certificate).not_after_s - CERTIFICATE_LIFE_S // 2:
                certificate = self._issue(device.alias, device.identity, now_s)
                self.registry.set_certificate(device.alias, certificate)
        return Renewed(self.authority.tls.issue_client(device.node_key, device.alias, now_s=now_s), certificate)

    def quit(self, leave: Leave, device: Device) -> Gone:
        """Revoke a device at its own wish; SignatureError unless its identity asks."""
        verify(device.identity, leave.sig, LEAVE_LABEL, device.alias)
        index, left_s = self.revoke(device.alias)
        head, path = self._prove(index)
        return Gone(left_s, head, index, path)

    def revoke(self, alias: bytes) -> tuple[int, int]:
        """Shut a device out for good; return its entry's index in the log and the time.

        Raises:
            AdmissionError: there is no such device, or it is out already.
        """
        now_s = int(self._clock())
        with self.registry.transaction():
            device = self._enrolled(alias)
            self.registry.set_revoked(alias, at_s=now_s)
            return self.registry.append_log(Change.REVOKED, device, cert_hash(device.certificate), at_s=now_s), now_s

    def member(self, alias: bytes, node_key: bytes) -> Device:
        """Return the device that a client certificate names; AdmissionError if it is not, or no longer, enrolled."""
        device = self._enrolled(alias)
        if device.node_key != node_key:
            raise AdmissionError("the certificate is for another key than the device enrolled with")
        return device

    def _enrolled(self, alias: bytes) -> Device:
        device = self.registry.device(alias)
        if device is None or device.revoked_s is not None:
            raise AdmissionError("this device is not enrolled here, or was revoked")
        return device

    def _answer(self, challenge: bytes) -> None:
        with self._lock:
            expires_s = self._challenges.pop(challenge, 0.0)
        if self._clock() > expires_s:
            raise PhaseError("the challenge is not known here, was answered or has expired")

    def _device_for(self, join: Join) -> Device:
        invitation, now_s = self.registry.invitation(join.token), int(self._clock())
        if invitation is None or now_s > invitation.expires_s:
            raise AdmissionError(NO_TOKEN)
        if invitation.alias is not None:
            before = self._enrolled(invitation.alias)
            if (before.identity, before.node_key) != (join.identity, join.node_key):
                raise AdmissionError(NO_TOKEN)
            return before
        if self.registry.knows_key(join.identity, join.node_key):
            raise AdmissionError("one of the keys was enrolled before; a device joins with fresh ones")
        return self._enrol(join, now_s)

    def _enrol(self, join: Join, now_s: int) -> Device:
        alias = self._entropy(ALIAS_SIZE)
        certificate = self._issue(alias, join.identity, now_s)
        index = len(self.registry.log())
        device = Device(alias, join.identity, join.node_key, certificate, join.is_lab, now_s, index)
        self.registry.append_log(Change.JOINED, device, cert_hash(certificate), at_s=now_s)
        self.registry.add_device(device)
        self.registry.use_invitation(join.token, alias)
        return device

    def _issue(self, alias: bytes, identity: bytes, now_s: int) -> bytes:
        return issue(self.authority.identity, Certificate(alias, identity, not_after_s=now_s + CERTIFICATE_LIFE_S, epoch=EPOCH))

    def _head(self) -> tuple[list[bytes], bytes, bytes]:
        """Return the log's leaves, who is revoked and the head that fixes both."""
        with self.registry.transaction():
            entries, revoked = self.registry.log(), pack(self.registry.revoked())
        leaves = [leaf_hash(entry) for entry in entries]
        head = Head(len(leaves), tree_root(leaves), int(self._clock()), EPOCH, revoked_hash(revoked))
        return leaves, revoked, sign_head(self.authority.identity, head)

    def _prove(self, index: int) -> tuple[bytes, bytes]:
        leaves, _, head = self._head()
        return head, pack(inclusion_proof(leaves, index))
