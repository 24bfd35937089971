"""A model that brings its own code, as InternVL 1.5 does: files that are copied beside its weights.

Written by hand after that family's public interface, for transformers 4.4x: names of tensors,
keys of ``config.json``, ``chat()``, what VLMEvalKit's wrapper calls. ``build.py`` trains a pool.
"""
