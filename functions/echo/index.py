"""Echo WebSocket messages."""

# Talk to it, with the keys of `eval "$(functions keys)"`: each line that you type comes back, Ctrl-D ends.
#   python -m websockets "ws://localhost:54321/functions/v1/echo?jwt=$ANON_KEY"
# A plain GET says how to connect:
#   curl http://localhost:54321/functions/v1/echo -H "Authorization: Bearer $ANON_KEY"

from runtime import JSONResponse, Request, WebSocket


async def websocket(ws: WebSocket) -> None:
    await ws.accept()
    async for text in ws.iter_text():  # ends when the client leaves
        await ws.send_text(text)


async def handler(request: Request) -> JSONResponse:
    message = "Open a WebSocket here, with your key as ?jwt=…: what you send comes back"
    return JSONResponse({"message": message}, 426, {"upgrade": "websocket"})
