"""The process at the other end of an embedding worker's socket: tasks in, results out.

It imports nothing but what the function it is given needs, and it ends as soon as its parent does.
"""

import os
import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

#: Seconds between two looks at whether the parent is still there.
_PARENT_CHECK_S = 1.0


def serve(fds: Sequence[int], parent: int) -> None:
    """Answer tasks until the parent closes a socket, or is gone.

    The first message of a socket is `(function, extra)`, answered by None once the function is
    imported; every other one is a tuple of arguments, answered by `function(*arguments, extra)`. A
    function that stands before the arguments is called instead. A list of such tuples is answered
    by a list.

    Args:
        fds: Connected stream sockets. Each is answered in order, by a thread of its own.
        parent: The process id of the parent.
    """
    first, *others = fds
    for fd in others:
        threading.Thread(target=_serve_beside, args=(fd, parent), daemon=True).start()
    _serve(first, parent)


def _serve_beside(fd: int, parent: int) -> None:
    """The same in a thread that ends the process as the first one would."""
    try:
        _serve(fd, parent)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _serve(fd: int, parent: int) -> None:
    connection = Connection(fd)
    try:
        function, extra = connection.recv()
        connection.send(None)
        tasks: queue.SimpleQueue[tuple | list[tuple]] = queue.SimpleQueue()
        threading.Thread(target=_receive, args=(connection, tasks, parent), daemon=True).start()
        while True:
            task = tasks.get()
            if isinstance(task, list):
                connection.send([_answer(one, function, extra) for one in task])
            else:
                connection.send(_answer(task, function, extra))
    except (EOFError, ConnectionError):  # the parent wants no more
        os._exit(0)


def _answer(task: tuple, function: Callable[..., object], extra: object) -> object:
    if callable(task[0]):  # another function, named in the task itself
        return task[0](*task[1:], extra)
    return function(*task, extra)


def _receive(
    connection: Connection, tasks: queue.SimpleQueue[tuple | list[tuple]], parent: int
) -> None:
    """Queue what arrives. Never lets the parent wait to send, even while RDKit is at work."""
    try:
        while True:
            # The end of the file tells it at once, unless a fork of the parent holds a copy of the
            # socket; PR_SET_PDEATHSIG would fire when the thread ends that started this process.
            while not connection.poll(_PARENT_CHECK_S):
                if os.getppid() != parent:
                    os._exit(0)
            tasks.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)
