"""The command line: one file per command; whatever is heavy is imported when a command runs."""
