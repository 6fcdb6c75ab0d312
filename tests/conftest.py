"""What holds for every test."""

import os

# One device, whatever the machine: sums over a batch then have one order, and results
# of this process and of those it starts can be compared bit for bit.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
