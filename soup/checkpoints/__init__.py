"""A directory → Checkpoint → Pool: names, shapes and byte ranges, from headers alone.

In come paths; out go Checkpoints (``opening``: full models and LoRA adapters are told apart there)
and a Pool whose members are known to fit each other. Files' formats, JSON, ties, companion files
and what an adapter computes are known here and nowhere above. Knows no blend, score or terminal.
"""
