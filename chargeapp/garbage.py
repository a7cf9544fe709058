"""Python's garbage collector in processes that run for long."""

import gc


def spare_what_stays() -> None:
    """Called once, when a process has all it needs and begins to work.

    From time to time the collector looks at every object there is. 150,000 of them are modules, classes and the like,
    which never go: about 100 ms in which the process answers nobody and, in the middle of a transaction, nobody else
    writes. It leaves out what is there now.
    """
    gc.freeze()
