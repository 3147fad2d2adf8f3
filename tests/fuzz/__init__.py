"""Bytes that nobody meant, into every decoder, check of evidence and server: `make fuzz`.

`make fuzz TIME=60 ONLY=eventlog EVIDENCE=DIR` runs atheris (coverage-guided) on each target for
that many seconds, as many at a time as there are processors. What it found interesting stays in
`build/fuzz/NAME/corpus` for the next run; the first inputs are our vectors and, with EVIDENCE,
those of real machines. `python -m tests.fuzz million` makes a million structured mutations of
logs, quotes and certificates from one printed seed, the same ones every time, and `python -m
tests.fuzz packets` a million packets to DHCP, TFTP, DNS and the rest of netboot.

Three things fail a run. A *crash* is any exception but the verifier's own errors. *Slow* is an
input of at most 64 KiB that takes more than 100 ms of processor time, measured again without
instrumentation, best of three. A *lie* is changed evidence that is taken though what it proves
is not what was signed; exactly:

- quote: `check_quote` returns, and the attestation or a value of its selection differs from what
  the TPM signed. A signature in another spelling over the same attestation is no lie.
- certificate: the EK is trusted without a finding that gates, and the to-be-signed part of its
  certificate differs. Padding, header and order of what came along are no part of it.
- log: no finding that gates, and the digests that PCR 0 to 15 but 10 were extended with, the start
  value of PCR 0 or the key databases read from PCR 7 differ. Event types, data whose hash is not
  the digest, EV_NO_ACTION, the order between PCRs, events of other PCRs, padding and the two
  ExitBootServices events are claims, not facts.
- evidence: `appraise` says "accepted", and one of the above holds, or another field than the facts,
  the platform certificates and the IMA list (when PCR 10 is zero) differs.
- wire forms: bytes are read that `encode` would not give back.
- lease, request, ledger, wrapped secret, signed file, SSH certificate, stored row: one that nobody
  signed or sealed is taken, or one that somebody did says something else.

For packets, a lie is an answer that should not have been given:

- any server: a reply to a reply, a second packet, one that other libraries cannot read or that
  belongs to another question; to a client of DHCP also a lease for a message with an option that
  runs past its end, or another client's address.
- TFTP and HTTP: bytes that are not the file's, more than the window, fields of somebody else.
- DNS: more than the client can take, more than a stranger sent, others asked for who may not.
- validator: an answer called secure that differs from the signed one, or a signed zone called
  unsigned. Master files: another zone after it was written and read again.

A failing input is kept in `build/fuzz/NAME/found`; `python -m tests.fuzz try NAME FILE` shows what
becomes of it. Exit codes: 0 nothing found, 1 something found, 2 a target could not run.
"""
