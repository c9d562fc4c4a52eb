"""The command `pointsman test`: which files, what is shown of their results, and the exit code.

What a test means and whether it passes is `core.proving.policytest`'s business; here it is run over files and told to
people and to machines.
"""
