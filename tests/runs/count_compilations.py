"""Run commands in one process; print what was compiled, and what was found compiled.

Arguments: those of main.py, with a "+" between two commands.
"""

import json
import sys
from collections import Counter
from itertools import groupby

import jax

from ddpm_jax.cli import main

_OF_CACHE = "/jax/compilation_cache/"


def run(arguments):
    """Give the commands; return the counts, or raise for one that failed."""
    counts = Counter()
    jax.monitoring.register_event_listener(lambda event, **_: counts.update([event]))
    for is_between, command in groupby(arguments, lambda argument: argument == "+"):
        if not is_between and main(list(command)):
            raise RuntimeError("a command failed")
    return {
        name: counts[_OF_CACHE + name]
        for name in ("compile_requests_use_cache", "cache_misses", "cache_hits")
    }


if __name__ == "__main__":
    found = run(sys.argv[1:])
    print("counted", json.dumps(found))
