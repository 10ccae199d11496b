import asyncio

# Where a test without a loop comes first, pytest-asyncio asks for the current loop, and on Python
# 3.11 asyncio makes one that nobody closes. Once "there is none" has been said it makes none.
asyncio.set_event_loop(None)
