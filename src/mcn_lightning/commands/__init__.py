"""The commands: what each reads from the command line, and which parts it puts together."""
