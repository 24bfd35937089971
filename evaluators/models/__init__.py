"""How a kind of model is asked: its words, its images, its settings.

In comes a Checkpoint; out goes a Wrapper (``wrapper``: what it must know) that makes inputs of
questions and text of outputs: ``chat`` for any model, ``kit_wrapper`` with VLMEvalKit's own class
for the ``families`` of a table. Builds a model, but swaps and answers nothing: engines do.
"""
