"""The data plane: asyncio protocols that move bytes between a client and an upstream, one `Exchange` per request."""
