"""Array types of the package: axes are (y, x); channels come last in NumPy, first in torch."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

RGBImage: TypeAlias = npt.NDArray[np.uint8]
"""(H, W, 3), 0..255, sRGB."""
InstanceLabels: TypeAlias = npt.NDArray[np.int32]
"""(H, W), 0 = background, k = nucleus k, -1 = ignored."""
BoolMask: TypeAlias = npt.NDArray[np.bool_]
"""(H, W)."""
FloatArray: TypeAlias = npt.NDArray[np.float32]
"""Any shape."""
IntArray: TypeAlias = npt.NDArray[np.int64]
"""Any shape."""
Json: TypeAlias = dict[str, Any]
"""An object of JSON."""
