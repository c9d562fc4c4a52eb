"""The command `pointsman explain` and `POST /v1/explain`: what becomes of a request, by the code that serves it."""
