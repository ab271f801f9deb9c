"""What the command line does beyond parsing words: one module a command."""
