"""SHA-256 in the file with a snapshot, beside the same file without one.

    bench/hashing.py build/amd64/snapshot-checker build/amd64/plain-checker

What OpenSSL knows of the processor is asked again when a snapshot goes on (runtime/snapshot.c in
packaging/); otherwise the first is three to four times slower than the second.
"""

import subprocess
import sys

SCRIPT = """
import hashlib, time
data = bytes(16 << 20)
def once():
    start = time.perf_counter(); hashlib.sha256(data).digest(); return time.perf_counter() - start
print(16 / min(once() for _ in range(9)))
"""

for program in sys.argv[1:]:
    rate = subprocess.check_output([program, "/dev/stdin"], input=SCRIPT, text=True)
    print(f"{float(rate):8.0f} MiB/s  {program}")
