"""An echo on Python's `websockets`, as its documentation has it. Ends with its standard input."""

import asyncio
import logging
import sys

from websockets.asyncio.server import serve


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


async def main():
    # It would tell of each connection of a churn that it was reset.
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
    # No limit: its default, 1 MiB, is what the largest message of the tests has.
    async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        host, port = server.sockets[0].getsockname()
        print(f"listening on {host}:{port}", flush=True)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
