"""Which integer scheme the processor wants: shared by the quantising steps."""

from __future__ import annotations

from optimizers.contract.host import Host


def reduced_range(setting: object, host: Host) -> bool:
    """Whether weights take 7 bits instead of 8.

    U8S8 products on x86 without VNNI add two 16-bit products with saturation (VPMADDUBSW); with
    7-bit weights they cannot overflow.

    Args:
        setting: A step's own word, or "auto".
        host: The machine that builds.
    """
    if isinstance(setting, bool):
        return setting
    return not host.has_vnni and not host.is_arm


def seven_bits(setting: object) -> str:
    """What to note where weights took 7 bits."""
    why = "as asked" if setting is True else "because this CPU saturates int8 products (no VNNI)"
    return f"7-bit weights, {why}"
