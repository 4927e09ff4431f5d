"""Turn text into embeddings."""

# Call it, with the keys of `eval "$(functions keys)"`:
#   curl --get http://localhost:54321/functions/v1/embed --data-urlencode "input=Luke, I am your father" \
#     -H "Authorization: $ANON_KEY"
#   curl http://localhost:54321/functions/v1/embed -H "Authorization: Bearer $ANON_KEY" \
#     -d '{"input": ["one text", "another"]}'

import os
from typing import Any

from runtime import HTTPException, Request, ai

session = ai.Session(os.environ.get("EMBEDDING_MODEL", "gte-small"))


async def handler(request: Request) -> Any:
    if request.method == "GET":
        text = request.query_params.get("input")
    else:
        data = await request.json()
        text = data.get("input") if isinstance(data, dict) else None
    if not text:
        raise HTTPException(400, 'Send a text as ?input=… or {"input": "…"}, several as {"input": ["…"]}')
    return await session.run(text, mean_pool=True, normalize=True)
