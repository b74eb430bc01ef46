"""Connects again and again, and writes how many connections were refused and the longest time without a connection.

Arguments: address, port, a file. Ends at SIGTERM."""
import os
import signal
import socket
import sys
import time

address, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
stopped = False


def stop(*_):
    global stopped
    stopped = True


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, lambda *_: None)
connected = refused = other = 0
longest = 0.0
last = time.monotonic()
said = 0.0
while True:
    outcome = "ok"
    try:
        socket.create_connection((address, port), timeout=5).close()
        connected += 1
        now = time.monotonic()
        longest = max(longest, now - last)
        last = now
    except ConnectionRefusedError:
        refused += 1
        outcome = "refused"
    except OSError as error:
        other += 1
        outcome = str(error)
    now = time.monotonic()
    if stopped or now - said > 0.1:
        said = now
        with open(path + ".new", "w") as file:
            file.write("%d connections, %d refused, %d other errors, %.3f s at most without one; last %s\n"
                       % (connected, refused, other, longest, outcome))
        os.replace(path + ".new", path)
    if stopped:
        break
    time.sleep(0.001)
