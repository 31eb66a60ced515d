"""Which exceptions are not the program's fault: a wrong input, and too little memory."""

import pickle


class UserError(Exception):
    """A wrong input. The message is one line: what was wrong, where, and what to do.

    The scripts print the message without a traceback and exit with status 2.
    """


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means this, of torch on any device or of Python itself."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # The last is what oneDNN says of it.
    said = ("can't allocate memory", "out of memory", "could not create a primitive")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def why_unreadable(error: Exception) -> str:
    """Why `torch.load` refused a file; its own words would tell how to run the code in it."""
    told = str(error).lower()
    if "unsupported global" in told or "unsupported class" in told:
        return "it holds more than tensors and plain values, and could run code"
    if isinstance(error, pickle.UnpicklingError | EOFError) or "central directory" in told:
        return "it is damaged, cut short, or of another kind"
    return first_line(error)
