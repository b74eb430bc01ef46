"""Types into a shell on a terminal of its own, and prints the command line that stands there then.

Usage: typist.py SECONDS SETUP KEYS SHELL…: SETUP is a line that the shell runs first, KEYS are typed after it (\\t is a tab).
"""

import os
import pty
import re
import select
import sys
import time

seconds, setup, keys, *shell = sys.argv[1:]
deadline = time.monotonic() + float(seconds)
child, terminal = pty.fork()
if child == 0:
    os.environ.update(TERM="dumb", PS1="$ ", COLUMNS="200", LINES="50")
    os.execvp(shell[0], shell)
seen = b""


def wait_for(pattern):
    """Reads until the shell has written it."""
    global seen
    while not (found := re.search(pattern, seen, re.DOTALL)):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([terminal], [], [], left)[0]:
            sys.exit(f"never came: {pattern!r} in {seen!r}")
        try:
            seen += os.read(terminal, 4096)
        except OSError:
            sys.exit(f"the shell ended: {seen!r}")
    return found


# The quotes keep what is typed, which the terminal shows too, apart from what the shell answers.
os.write(terminal, (setup + "; echo rea'dy'\n").encode())
wait_for(rb"ready")
seen = b""
# At the begin of the line, a command that prints the rest of the line.
os.write(terminal, keys.replace("\\t", "\t").encode() + b"\x01printf '<%s>' 'li''ne' \x05; echo en'd'\n")
print(re.search(rb"<line>(.*)end", wait_for(rb"<line>.*end").group(), re.DOTALL).group(1).decode().strip())
os.close(terminal)
os.waitpid(child, 0)
