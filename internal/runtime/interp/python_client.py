# Passes standard input, one line, to the interpreter's socket, and its answer to standard output.
import sys
from _socket import socket, AF_UNIX, SOCK_STREAM
from posix import read, write, _exit
s = socket(AF_UNIX, SOCK_STREAM)
try:
    s.connect(sys.argv[1])
except OSError:
    _exit(97)
b = b''
while not b.endswith(b'\n'):
    p = read(0, 65536)
    if not p:
        break
    b += p
try:
    s.sendall(b)
    while True:
        p = s.recv(65536)
        if not p:
            break
        while p:
            p = p[write(1, p):]
except OSError:
    pass
_exit(0)
