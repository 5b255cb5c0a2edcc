"""The one exception a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: the message names the thing, where it is and the remedy.

    Command-line entry points print it on one line to standard error, without a traceback, and exit with 2.
    """
