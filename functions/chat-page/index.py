"""Chat in the browser."""

# Open http://localhost:54321/functions/v1/chat-page in a browser, or look at its source:
#   curl http://localhost:54321/functions/v1/chat-page
#
# The page is public (see [functions.chat-page] in supabase/config.toml) and calls functions/chat with
# the anon key, which is made to be seen: whoever can open the page can use that function.

import html
import os
import secrets
from pathlib import Path

from runtime import HTMLResponse, Request

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
KEY = html.escape(os.environ.get("SUPABASE_ANON_KEY", ""))

# Nothing is loaded from elsewhere, and only what carries this response's nonce runs.
POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def handler(request: Request) -> HTMLResponse:
    nonce = secrets.token_urlsafe(16)
    page = PAGE.replace("{{NONCE}}", nonce).replace("{{ANON_KEY}}", KEY)
    headers = {"content-security-policy": POLICY.format(nonce), "cache-control": "no-store"}
    return HTMLResponse(page, headers=headers)
