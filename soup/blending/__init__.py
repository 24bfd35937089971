"""Blend → bytes: members and coefficients become tensors, in a file or in a model.

In come Checkpoints; out goes a Blend, its stream of exactly rounded tensors (``streaming``, with
the compiled loop, the running sum and the device lane behind it), and the directory that ``writer``
makes of it. Methods of merging live here. Knows no score.
"""
