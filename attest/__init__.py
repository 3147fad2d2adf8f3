"""The verifier of TPM 2.0 evidence at bootstrap: bytes in, one result with its reasons out."""
