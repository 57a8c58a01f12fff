"""Print the resident memory of processes once a second: `python -m bench.server.sampler PID...`.

Each line is a time and a number of bytes per process. It ends with its stdin.
"""

from __future__ import annotations

import select
import sys
import time

from bench import proc

SAMPLE_S = 1.0


def main() -> None:
    pids = [int(word) for word in sys.argv[1:]]
    while not select.select([sys.stdin], [], [], SAMPLE_S)[0]:
        print(time.monotonic(), *(proc.rss_bytes(pid) for pid in pids), flush=True)


if __name__ == "__main__":
    main()
