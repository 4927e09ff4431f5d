"""Receive signed webhooks."""

# Checks signatures as https://www.standardwebhooks.com describes them. It needs no key (see
# [functions.webhook] in supabase/config.toml) but a secret that only the sender shares. Make one, and
# put it into supabase/functions/.env as WEBHOOK_SECRET:
#   echo "whsec_$(openssl rand -base64 32)"
#
# Send a signed message, with the same WEBHOOK_SECRET in your shell:
#   id=msg_1 now=$(date +%s) body='{"type": "user.created", "data": {"name": "Ada"}}'
#   key=$(printf %s "${WEBHOOK_SECRET#whsec_}" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n')
#   signature=$(printf %s "$id.$now.$body" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary \
#     | openssl base64 -A)
#   curl http://localhost:54321/functions/v1/webhook -H "webhook-id: $id" -H "webhook-timestamp: $now" \
#     -H "webhook-signature: v1,$signature" -d "$body"

import base64
import hmac
import os
import time
from typing import Any

from runtime import HTTPException, Request

TOLERANCE = 300  # seconds between the sender's clock and ours
REMEMBERED = 10_000

done: dict[str, None] = {}  # ids, the oldest first; in this process alone; a database would outlive it
at_work: set[str] = set()


async def handler(request: Request) -> dict[str, str]:
    message = await verified(request)
    if message in done:  # senders repeat what they got no answer for
        return {"status": "done before"}
    if message in at_work:  # which may fail yet, so that the sender must ask again
        raise HTTPException(409, "Still at work on this message; try again")
    at_work.add(message)
    try:
        await receive(await request.json())
    finally:
        at_work.discard(message)
    done[message] = None
    if len(done) > REMEMBERED:
        del done[next(iter(done))]
    return {"status": "done"}


async def receive(event: Any) -> None:
    print("received", event["type"] if isinstance(event, dict) and "type" in event else "an event")


async def verified(request: Request) -> str:
    """The message's id, if the sender knows the secret and the message is fresh."""
    key = signing_key()
    try:
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        message, timestamp, signatures = (request.headers[name] for name in names)
        age = time.time() - int(timestamp)
    except (KeyError, ValueError, OverflowError) as error:
        raise HTTPException(400, "Send webhook-id, webhook-timestamp and webhook-signature") from error
    if abs(age) > TOLERANCE:
        raise HTTPException(401, "The message's webhook-timestamp is too far from now")
    signed = f"{message}.{timestamp}.".encode("latin-1") + await request.body()
    expected = b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))
    given = signatures.encode("latin-1").split(b" ")  # several while the sender changes its secret
    if not any(hmac.compare_digest(expected, signature) for signature in given):
        raise HTTPException(401, "The signature does not fit")
    return message


def signing_key() -> bytes:
    try:
        key = base64.b64decode(os.environ.get("WEBHOOK_SECRET", "").removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if len(key) < 24:
        raise HTTPException(503, "WEBHOOK_SECRET is not set, or is no base64 of at least 24 bytes")
    return key
