"""`pointsman check`: what can be said of a configuration and its policies before any request.

What there is to find of a policy is `core.analyse`; here is what only the whole configuration shows (keys, names, files
and lines), and how findings are told.
"""
