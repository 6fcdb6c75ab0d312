"""Scaling on paper: communication per step against compute per step.

    python -m benchmarks.scaling               the tables of docs/clusters.md
    python -m benchmarks.scaling --rate=197e12 --in-node=180e9 ...     another machine

Nothing is measured here. The formulas are written out in docs/clusters.md, section
"Scaling, on paper"; equation numbers below are of that section.
"""

import argparse
import dataclasses
import math

DEVICES = (8, 64, 512)


@dataclasses.dataclass(frozen=True)
class Network:
    """What a step of a network costs.

    Attributes:
        name: for the table.
        params: P, number of parameters.
        flop: F, floating-point operations of one image and step: three forward passes,
            the backward pass being two.
        batches: per-device batches shown.
    """

    name: str
    params: int
    flop: float
    batches: tuple[int, ...]


# Parameters and operations of a forward pass as XLA counts them before optimisation:
# configs/cifar.py at 32x32; and 256 channels times (1, 2, 3, 4), three blocks a level,
# attention at 32, 16 and 8, scale and shift, at 64x64.
NETWORKS = (
    Network("CIFAR-10, 35.7 million", 35_746_307, 3 * 11.66e9, (16, 128)),
    Network("64x64, 491 million", 491_310_339, 3 * 332.0e9, (4, 16)),
)


@dataclasses.dataclass(frozen=True)
class Machine:
    """Nodes of H100 SXM, one 400 Gb/s network card for each GPU.

    Attributes:
        rate: R, bf16 operations a second and device, dense, as the vendor states.
        share: u of it that a step reaches.
        per_node: g, devices that fast links join.
        in_node: W, bytes a second that a device sends over them, one way.
        between: V, bytes a second that a device sends to other nodes, one way.
        hop: a, seconds that a message takes within a node, software included.
        far_hop: c, the same between nodes.
        bucket: bytes that one collective operation carries.
        bytes_per_param: of a gradient or a parameter on the wire: float32.
    """

    rate: float = 989e12
    share: float = 0.4
    per_node: int = 8
    in_node: float = 450e9
    between: float = 50e9
    hop: float = 5e-6
    far_hop: float = 20e-6
    bucket: float = 30e6
    bytes_per_param: int = 4


def compute(machine: Machine, network: Network, batch: int) -> float:
    """Return the seconds of forward and backward pass: eq. (1)."""
    return batch * network.flop / (machine.rate * machine.share)


def half_ring(
    parts: int, size: float, bandwidth: float, hop: float, bucket: float
) -> float:
    """Return the seconds of a reduce-scatter or all-gather over a ring: eq. (2)."""
    messages = math.ceil(size / bucket)
    return (parts - 1) / parts * size / bandwidth + messages * (parts - 1) * hop


def tree(parts: int, size: float, bandwidth: float, hop: float, bucket: float) -> float:
    """Return the seconds of an all-reduce over a double binary tree: eq. (3)."""
    if parts == 1:
        return 0.0
    messages = math.ceil(size / bucket)
    return 2 * size / bandwidth + messages * 2 * math.log2(parts) * hop


@dataclasses.dataclass(frozen=True)
class Communication:
    """Seconds of a step that nothing, or the backward pass, can hide.

    Attributes:
        before: must end before the forward pass: parameters gathered.
        along: may run along with the backward pass: gradients reduced.
    """

    before: float
    along: float


def replicated(machine: Machine, network: Network, devices: int) -> Communication:
    """Reduce all gradients to all devices, fsdp = 1: eq. (4)."""
    size = network.params * machine.bytes_per_param
    within, nodes = _layout(machine, devices)
    inside = (within, size, machine.in_node, machine.hop, machine.bucket)
    far = tree(nodes, size / within, machine.between, machine.far_hop, machine.bucket)
    return Communication(0.0, 2 * half_ring(*inside) + far)


def sharded(machine: Machine, network: Network, devices: int) -> Communication:
    """Share parameters within a node, fsdp = g, and reduce between nodes: eq. (5)."""
    size = network.params * machine.bytes_per_param
    within, nodes = _layout(machine, devices)
    inside = (within, size, machine.in_node, machine.hop, machine.bucket)
    far = tree(nodes, size / within, machine.between, machine.far_hop, machine.bucket)
    return Communication(half_ring(*inside), half_ring(*inside) + far)


def fully_sharded(machine: Machine, network: Network, devices: int) -> Communication:
    """Share parameters over all devices, fsdp = n: one ring through all: eq. (6)."""
    size = network.params * machine.bytes_per_param
    _, nodes = _layout(machine, devices)
    # A ring of all devices leaves each node by one device, and its slowest link counts;
    # eight rings, each leaving by another device, use all network cards.
    bandwidth = machine.in_node
    if nodes > 1:
        bandwidth = min(machine.in_node, machine.between * machine.per_node)
    hop = machine.hop if nodes == 1 else _mean_hop(machine, nodes)
    one = half_ring(devices, size, bandwidth, hop, machine.bucket)
    return Communication(one, one)


def _mean_hop(machine: Machine, nodes: int) -> float:
    far = nodes / (nodes * machine.per_node)
    return far * machine.far_hop + (1 - far) * machine.hop


def _layout(machine: Machine, devices: int) -> tuple[int, int]:
    within = min(devices, machine.per_node)
    return within, devices // within


def efficiency(step: float, communication: Communication) -> tuple[float, float]:
    """Return the share of a step that is compute, with no overlap and with all: (7)."""
    behind = max(0.0, communication.along - 2 / 3 * step)
    plain = step / (step + communication.before + communication.along)
    return plain, step / (step + communication.before + behind)


def least_batch(
    machine: Machine, network: Network, communication: Communication, share: float
) -> int:
    """Return the least per-device batch whose efficiency without overlap is `share`."""
    both = communication.before + communication.along
    seconds = share / (1 - share) * both
    return max(1, math.ceil(seconds / compute(machine, network, 1)))


LAYOUTS = {"1": replicated, "8": sharded, "all": fully_sharded}


def state_bytes(network: Network, fsdp: int) -> float:
    """Return the bytes a device holds at rest: parameters, average, two moments."""
    return 4 * network.params * 4 / fsdp


def table(machine: Machine) -> str:
    """Return every number of the document as one Markdown table."""
    lines = [
        "| network | batch per device | devices | fsdp | compute, ms | communication, "
        "ms | efficiency, no overlap | with overlap | batch for 90%, no overlap | "
        "state per device, GB |",
        "|" + " --- |" * 10,
    ]
    for network in NETWORKS:
        for batch in network.batches:
            step = compute(machine, network, batch)
            for devices in DEVICES:
                for name, layout in LAYOUTS.items():
                    if name == "all" and devices == machine.per_node:
                        continue  # the line before
                    found = layout(machine, network, devices)
                    plain, hidden = efficiency(step, found)
                    fsdp = devices if name == "all" else int(name)
                    cells = (
                        network.name,
                        str(batch),
                        str(devices),
                        str(fsdp),
                        f"{1e3 * step:.1f}",
                        f"{1e3 * (found.before + found.along):.2f}",
                        f"{plain:.0%}",
                        f"{hidden:.0%}",
                        str(least_batch(machine, network, found, 0.9)),
                        f"{state_bytes(network, fsdp) / 1e9:.2f}",
                    )
                    lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, for the machine that the arguments describe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in dataclasses.fields(Machine):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default)
    print(table(Machine(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
