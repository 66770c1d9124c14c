"""Tries the direct ways out to the outside host. One line for each: how it ended, and after how many milliseconds."""
import errno
import socket
import time

SECRET = b"POST /drop HTTP/1.0\r\nContent-Length: 13\r\n\r\nmodel weights"
TARGETS = [
    (socket.AF_INET, socket.SOCK_STREAM, ("10.77.5.2", 80)),
    (socket.AF_INET, socket.SOCK_DGRAM, ("10.77.5.2", 53)),
    (socket.AF_INET6, socket.SOCK_STREAM, ("fd77:5::2", 80)),
    (socket.AF_INET6, socket.SOCK_DGRAM, ("fd77:5::2", 53)),
]

for family, kind, to in TARGETS:
    with socket.socket(family, kind) as client:
        client.settimeout(5)
        start = time.perf_counter()
        try:
            if kind == socket.SOCK_STREAM:
                client.connect(to)
                client.sendall(SECRET)
            else:
                client.sendto(SECRET, to)
            client.recv(4096)
            outcome = "answered"
        except OSError as error:
            outcome = errno.errorcode.get(error.errno, "ETIMEDOUT")
        print(outcome, (time.perf_counter() - start) * 1000)
