"""Sort documents by how well they answer."""

# Needs a cross-encoder: `functions models pull ms-marco-minilm-l6-v2`.
#
# Call it, with the keys of `eval "$(functions keys)"`:
#   curl http://localhost:54321/functions/v1/rerank -H "Authorization: Bearer $ANON_KEY" \
#     -d '{"query": "Who is my father?", "documents": ["Luke, I am.", "The weather is nice."], "top": 1}'

import os
from typing import Any

from runtime import HTTPException, Request, ai

session = ai.Session(os.environ.get("RANKING_MODEL", "ms-marco-minilm-l6-v2"))


async def handler(request: Request) -> list[ai.Ranked]:
    data: Any = await request.json()
    if not isinstance(data, dict) or not {"query", "documents"} <= data.keys():
        raise HTTPException(400, 'Send {"query": "…", "documents": ["…", …]}, and "top" for the best alone')
    return await session.rank(data["query"], data["documents"], top=data.get("top"))
