"""Headquarters of a rehearsal: wraps a synthetic value of each secret of tier `box` for its boxes.

What `doorstep wrap` does at headquarters and `doorstep secret import` at the site, in one place:
the values are made here, and nothing keeps them but who asked.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence

from bootstrap.io import site_dir
from bootstrap.rehearsal.appliance import Appliance
from bootstrap.rehearsal.box import VirtualBox
from bootstrap.rehearsal.place import Place, ek_area
from keys.envelope import b64u, unb64u
from keys.secret import Secret
from keys.wrap import CONTEXT, Label, Randomness, decode_key, wrap

_SECONDS = 86400


def wrap_secrets(
    place: Place, appliance: Appliance, boxes: Sequence[VirtualBox]
) -> Mapping[str, Mapping[str, bytes]]:
    """Wrap, sign and import one value for each box and secret; gives them by serial and name."""
    names = [rule.name for rule in place.site.secrets if rule.tier == "box"]
    if not names:
        return {}
    signed = json.loads(appliance.ask("keys", "wrap_key")["key"])
    key = decode_key(unb64u(json.loads(unb64u(signed["answer"]))["public"]))
    made: dict[str, dict[str, bytes]] = {box.serial_number: {} for box in boxes}
    for box in boxes:
        ek, now = ek_area(box), int(time.time())
        for name in names:
            label = Label(
                site=place.site.site.id,
                name=name,
                version=1,
                serial=box.serial_number,
                issued=now,
                expires=now + _SECONDS,
                ek_name=ek.name(),
                key_name=key.name(),
            )
            value = b"rehearsal-secret-" + secrets.token_hex(16).encode()
            randomness = Randomness.cut(os.urandom(Randomness.SIZE))
            data = wrap(label, Secret(value), ek=ek, randomness=randomness).encode()
            signature = site_dir.sign_document(place.layout.site, data, label.comment(), CONTEXT)
            params = {"file": b64u(data), "sig": b64u(signature)}
            appliance.ask("keys", "secret_import", params)
            made[box.serial_number][name] = value
    return made
