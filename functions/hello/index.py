"""Greet someone by name."""

# Call it, with the keys of `eval "$(functions keys)"`:
#   curl -X POST http://localhost:54321/functions/v1/hello \
#     -H "Authorization: Bearer $ANON_KEY" -d '{"name":"Functions"}'

from runtime import HTTPException, Request


async def handler(request: Request) -> dict[str, str]:
    data = await request.json() if await request.body() else {}
    if not isinstance(data, dict):
        raise HTTPException(400, 'Send a JSON object, like {"name": "Functions"}')
    return {"message": f"Hello {data.get('name', 'World')}!"}
