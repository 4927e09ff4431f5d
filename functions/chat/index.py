"""Chat with a language model."""

# Needs a server that speaks Ollama's API, with the model pulled (`ollama pull mistral`), and its
# address as AI_INFERENCE_API_HOST in supabase/functions/.env; CHAT_MODEL there names another model.
#
# Call it, with the keys of `eval "$(functions keys)"`; -N lets curl show each token as it comes:
#   curl -N http://localhost:54321/functions/v1/chat -H "Authorization: Bearer $ANON_KEY" \
#     -d '{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}'

import os
from typing import Any

from runtime import HTTPException, Request, ai

ROLES = ("system", "user", "assistant")

session = ai.Session(os.environ.get("CHAT_MODEL", "mistral"))


async def handler(request: Request) -> ai.Stream:
    data = await request.json()
    messages = data.get("messages") if isinstance(data, dict) else None
    if not isinstance(messages, list) or not messages:
        raise HTTPException(400, 'Send {"messages": [{"role": "user", "content": "…"}]}, the oldest first')
    prompt = {"messages": [checked(message) for message in messages]}
    return await session.run(prompt, stream=True, timeout=300)  # server-sent events, `data: [DONE]` the last


def checked(message: Any) -> dict[str, str]:
    match message:
        case {"role": str(role), "content": str(content)} if role in ROLES:
            return {"role": role, "content": content}
    raise HTTPException(400, f"A message has a role ({', '.join(ROLES)}) and a content, both strings")
