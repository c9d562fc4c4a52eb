"""`pointsman explain --diff`: what a change of policies does, told as a comment on a pull request.

Both versions are loaded, bound and tested by the code that serves; here they are set side by side.
"""
