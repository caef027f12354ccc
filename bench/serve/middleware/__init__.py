"""The controls of a request, an ASGI middleware each, one a file; :mod:`bench.serve.app` has their order."""
