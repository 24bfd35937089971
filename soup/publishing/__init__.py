"""Night after night: which checkpoints are ready, whether the new soup is better, where it stands.

``landing`` fetches what is elsewhere, ``sifting`` leaves out what is not ready, ``gate`` decides
between the new soup and the published one, ``shelf`` is the directory where soups are published,
``night`` is the walk through all of them; ``page``, ``junit``, ``notify`` and ``hub`` tell others.
Prints nothing.
"""
