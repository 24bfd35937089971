"""The command line: options become one library call; the only place that prints or exits."""
