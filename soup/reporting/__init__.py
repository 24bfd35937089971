"""A run as one page: verdict, leaderboard, path, flips, likeness, history, cost, how to repeat it.

``facts`` gathers what the journal holds, ``history``, ``cost`` and ``flips`` their parts of it;
``charts`` draws, ``page`` fills the template. Nothing here scores or reads weights, and the page
asks nothing of a network: charts are SVG made when it is written.
"""
