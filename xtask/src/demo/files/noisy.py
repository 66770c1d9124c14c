"""Keeps trying. Prints how each phase went, and waits for a line between the phases."""
import errno
import socket
import sys

# Resolved once, at the start: what an answer opened stays open, or is closed by the quarantine.
INDEX = (socket.gethostbyname("index.packages.test"), 443)
INTERNAL = (socket.gethostbyname("internal.test"), 8080)
OUTSIDE = ("10.77.5.2", 80)


def connect(to):
    client = socket.socket()
    client.settimeout(5)
    try:
        client.connect(to)
        return client, "connected"
    except OSError as error:
        return None, errno.errorcode.get(error.errno, "ETIMEDOUT")


def phase(*words):
    print(*words, flush=True)
    sys.stdin.readline()


early, index = connect(INDEX)
phase(index, connect(INTERNAL)[1])
phase(*(connect(OUTSIDE)[1] for _ in range(9)), connect(INDEX)[1])
phase(connect(OUTSIDE)[1])
# The connection from before the quarantine: the kernel takes the bytes, and then they have to get out.
early.sendall(b"one more secret")
phase(connect(INDEX)[1], connect(INTERNAL)[1])
