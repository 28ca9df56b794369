"""One file per verb: `main(arguments)` parses them, does its work, and returns the exit code."""
