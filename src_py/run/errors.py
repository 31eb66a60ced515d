"""Which exceptions are not the program's fault: a wrong input, and too little memory."""


class UserError(Exception):
    """A wrong input. The message is one line: what was wrong, where, and what to do.

    The scripts print the message without a traceback and exit with status 2.
    """


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means this, of torch on any device or of Python itself."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = ("can't allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)
