"""The command line: one module per command; heavy packages are imported only when a command runs."""
