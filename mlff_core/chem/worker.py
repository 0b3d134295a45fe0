"""The process at the other end of an embedding worker's socket: tasks in, results out.

It imports nothing but what the function it is given needs, and it ends as soon as its parent does.
"""

import os
import queue
import threading
from multiprocessing.connection import Connection

#: Seconds between two looks at whether the parent is still there.
_PARENT_CHECK_S = 1.0


def serve(fd: int, parent: int) -> None:
    """Answer tasks in order until the parent closes the socket, or is gone.

    The first message is `(function, extra)`, answered by None once the function is imported; every
    other one is a tuple of arguments, answered by `function(*arguments, extra)`. A function that
    stands before the arguments is called instead.

    Args:
        fd: A connected stream socket.
        parent: The process id of the parent.
    """
    connection = Connection(fd)
    try:
        function, extra = connection.recv()
        connection.send(None)
        tasks: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        threading.Thread(target=_receive, args=(connection, tasks, parent), daemon=True).start()
        while True:
            task = tasks.get()
            if callable(task[0]):  # another function, named in the task itself
                connection.send(task[0](*task[1:], extra))
            else:
                connection.send(function(*task, extra))
    except (EOFError, ConnectionError):  # the parent wants no more
        os._exit(0)


def _receive(connection: Connection, tasks: queue.SimpleQueue[tuple], parent: int) -> None:
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
