"""Stops one thread until this process ends. Argument: the thread's number."""
import ctypes
import signal
import sys

SEIZE, INTERRUPT = 0x4206, 0x4207
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
thread = int(sys.argv[1])
if ptrace(SEIZE, thread, None, None) != 0 or ptrace(INTERRUPT, thread, None, None) != 0:
    sys.exit("can not stop thread %d: error %d" % (thread, ctypes.get_errno()))
signal.pause()
