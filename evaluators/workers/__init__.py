"""Processes: where a model lives, in a Python of its own, and how it is asked from ours.

``scorer`` is our side (the Scorer that users make), ``process`` starts a worker and says how it
ended, ``worker`` is what runs there. ``environment`` asks an interpreter what it has; ``doctor``
makes a report of it.
"""
