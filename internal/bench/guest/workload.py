"""The program that runs in a sandbox while it is paused, saved, restored and forked.

It appends one line to DIR/ticks every 10 ms. When a file DIR/ask appears it writes DIR/answer, a
JSON object that proves what of it has survived, and which random numbers it draws from now on.
"""
import hashlib
import json
import os
import random
import sys
import time
import uuid

directory = sys.argv[1]
memory = bytearray(os.urandom(1 << 20) * 10)
digest = hashlib.sha256(memory).hexdigest()
token = os.urandom(16).hex()
tick = 0


def answer(nonce):
    return {
        "nonce": nonce,
        "token": token,
        "tick": tick,
        "intact": hashlib.sha256(memory).hexdigest() == digest,
        "getrandom": [os.getrandom(16).hex() for _ in range(64)],
        "uuid4": [uuid.uuid4().hex for _ in range(8)],
        "prng": ["%x" % random.getrandbits(128) for _ in range(8)],
    }


def replace(name, text):
    with open(name + ".new", "w") as f:
        f.write(text)
    os.rename(name + ".new", name)


answered = None
with open(directory + "/ticks", "ab", buffering=0) as ticks:
    while True:
        tick += 1
        ticks.write(b"%015d\n" % tick)
        try:
            with open(directory + "/ask") as f:
                nonce = f.read()
        except FileNotFoundError:
            nonce = None
        if nonce and nonce != answered:
            replace(directory + "/answer", json.dumps(answer(nonce)))
            answered = nonce
        time.sleep(0.01)
