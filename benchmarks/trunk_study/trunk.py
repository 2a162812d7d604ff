"""EfficientNet-Lite0, stem to block 10, and a decoder on it (prototype)."""
import torch
from torch import nn, Tensor
from torch.nn import functional as F

# (expand, channels, repeats, stride, kernel) of EfficientNet-B0 (Tan and Le 2019); Lite keeps them
BLOCKS = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]

class Same(nn.Module):
    """Convolution with TensorFlow padding: where stride 2 meets an even side, one row and column more below and right."""
    def __init__(self, cin, cout, k, stride=1, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, k, stride, groups=groups, bias=False, padding=0 if stride == 2 else k // 2)
        self.k, self.stride = k, stride
    def forward(self, x):
        if self.stride == 2:
            pads = []
            for side in (x.shape[-1], x.shape[-2]):
                total = max((-(-side // 2) - 1) * 2 + self.k - side, 0)
                pads += [total // 2, total - total // 2]
            x = F.pad(x, pads)
        return self.conv(x)

class MBConv(nn.Module):
    def __init__(self, cin, cout, expand, stride, k):
        super().__init__()
        mid = cin * expand
        self.expand = None if expand == 1 else nn.Sequential(Same(cin, mid, 1), nn.BatchNorm2d(mid, eps=1e-3), nn.ReLU6())
        self.depth = nn.Sequential(Same(mid, mid, k, stride, groups=mid), nn.BatchNorm2d(mid, eps=1e-3), nn.ReLU6())
        self.project = nn.Sequential(Same(mid, cout, 1), nn.BatchNorm2d(cout, eps=1e-3))
        self.skip = stride == 1 and cin == cout
    def forward(self, x):
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depth(y))
        return x + y if self.skip else y

class Trunk(nn.Module):
    """Features at strides 2, 4, 8, 16: 16, 24, 40, 112 channels."""
    def __init__(self, blocks=11):
        super().__init__()
        self.stem = nn.Sequential(Same(3, 32, 3, 2), nn.BatchNorm2d(32, eps=1e-3), nn.ReLU6())
        self.blocks = nn.ModuleList(); self.taps = []
        cin, n = 32, 0
        for expand, cout, repeats, stride, k in BLOCKS:
            for r in range(repeats):
                if n == blocks: break
                s = stride if r == 0 else 1
                if s == 2: self.taps.append(n - 1)
                self.blocks.append(MBConv(cin, cout, expand, s, k)); cin = cout; n += 1
        self.taps.append(n - 1)
        self.taps = [t for t in self.taps if t >= 0]
    def forward(self, pixels):
        x = self.stem((pixels - 0.498) / 0.502)
        out = []
        for i, b in enumerate(self.blocks):
            x = b(x)
            if i in self.taps: out.append(x)
        return out
    def load_wheel(self, path):
        state = torch.load(path, map_location="cpu", weights_only=True)
        own = {}
        def put(prefix, key):
            for name, v in state.items():
                if name.startswith(prefix):
                    own[key + name[len(prefix):]] = v
        put("_conv_stem.", "stem.0.conv."); put("_bn0.", "stem.1.")
        for i, b in enumerate(self.blocks):
            p = f"_blocks.{i}."
            if b.expand is not None:
                put(p + "_expand_conv.", f"blocks.{i}.expand.0.conv."); put(p + "_bn0.", f"blocks.{i}.expand.1.")
            put(p + "_depthwise_conv.", f"blocks.{i}.depth.0.conv."); put(p + "_bn1.", f"blocks.{i}.depth.1.")
            put(p + "_project_conv.", f"blocks.{i}.project.0.conv."); put(p + "_bn2.", f"blocks.{i}.project.1.")
        self.load_state_dict(own)
        return self
