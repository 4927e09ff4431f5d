"""Stream a language model's answer."""

# Needs a server that speaks Ollama's API, with the model pulled (`ollama pull mistral`),
# and its address as AI_INFERENCE_API_HOST in supabase/functions/.env.
#
# Call it, with the keys of `eval "$(functions keys)"`:
#   curl --get http://localhost:54321/functions/v1/ollama-test \
#     --data-urlencode "prompt=write a short rap song" \
#     -H "Authorization: $ANON_KEY"

from collections.abc import AsyncIterator
from typing import Any

from runtime import Request, StreamingResponse, ai

session = ai.Session("mistral")


async def handler(request: Request) -> StreamingResponse:
    prompt = request.query_params.get("prompt", "")
    chunks = await session.run(prompt, stream=True)
    # Bare text, although the label says events: clients of Supabase's guide read it like this.
    # `return chunks` would send real server-sent events instead.
    return StreamingResponse(words(chunks), media_type="text/event-stream")


async def words(chunks: AsyncIterator[Any]) -> AsyncIterator[str]:
    async for chunk in chunks:
        yield chunk.get("response") or ""
