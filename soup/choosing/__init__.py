"""Scores → decisions: what is asked of a scorer, what is recorded, what is kept.

In come Blends and whatever maps a Blend to a Score (``scoring``: the protocol and its records); out
go Decisions (``recipes``, ``trials``), the Journal that outlives crashes, and the Leaderboard that
is a view of it. Reads no weights and knows no benchmark by name.
"""
