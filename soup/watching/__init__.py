"""Progress for people: what is at hand, as a model of its own, and those who show it.

``tasks`` holds the tasks at hand, whatever order and whichever threads events come in; ``lines``
puts them in words; ``terminal`` and ``notebook`` draw them. ``watch`` chooses between these two,
and is what a run in a terminal or in a notebook is watched with unless it is told otherwise.
"""
