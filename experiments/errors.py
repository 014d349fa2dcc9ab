"""Mistakes a user can mend: one message, exit status 2, no traceback."""


class UserError(ValueError):
    """Says what was needed, what came and what to do; the command line prints it and exits with status 2."""
