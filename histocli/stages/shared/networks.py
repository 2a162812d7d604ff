"""Networks that come with the package and that several commands use."""

from histocli.model.trunk import Trunk
from histocli.stores.box import read_trunk_weights


def public_trunk() -> Trunk:
    """Return the trunk with its public weights, on the CPU.

    Raises
    ------
    InvalidStore
        The file of the weights is damaged.
    """
    trunk = Trunk()
    trunk.load_state_dict(read_trunk_weights())
    return trunk.eval()
