"""The one exception that means: the user's input is wrong, not the program."""


class UserError(Exception):
    """A wrong input. The message is one line: what was wrong, where, and what to do.

    The scripts print the message without a traceback and exit with status 2.
    """
