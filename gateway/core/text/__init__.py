"""Texts by themselves: how many tokens they take, in which languages they are, and how long ones are read in pieces."""
