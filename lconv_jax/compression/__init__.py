"""From trained weights to the bits of a file, and the bounds that follow."""
