"""The command line of the operator; each command lives in a module of its own."""
