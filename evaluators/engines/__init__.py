"""What answers questions with a blend's weights: resident, swapped in place.

In come a Blend and prepared questions; out go answers, as they come. ``resident`` is transformers,
``places`` proves which tensor is which in memory, ``batches`` groups questions, ``kept`` keeps
answers for what follows a crash. Knows no benchmark and no metric.
"""
