"""The subcommands of ``lightning``: their arguments, and the parts that each builds from them."""
