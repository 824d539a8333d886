"""What the machine gives: files, memory, threads that may fail, the compile cache."""
