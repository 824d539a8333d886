"""One page about finished and unfinished runs, to be looked at in a browser or printed."""
