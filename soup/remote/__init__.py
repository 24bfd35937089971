"""Models elsewhere: on a hub, in object stores, on web servers; and the cache of what was fetched.

Nothing here knows what a model is: a place has files, with sizes and versions, of which ranges of
bytes can be read. ``soup.checkpoints.arriving`` knows which of them a model needs.
"""
