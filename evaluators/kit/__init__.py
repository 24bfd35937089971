"""What we know of VLMEvalKit: its tables, prompts, metrics, headline numbers, judges, suites.

In come a benchmark's name or file and a model's answers; out go questions and a number on 0–100
with each sample's outcome. ``vlmeval`` itself is imported by ``importing`` alone, for its side
effects.
"""
