"""Leave one laboratory out: learners on synthetic patches, scored on tissue of laboratories that no reference came from."""
import argparse, json, os, subprocess, sys, time
from pathlib import Path
import numpy as np, torch
from torch import nn, Tensor
from torch.nn import functional as F
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from trunk import Trunk
SETS = ("tnbc", "monuseg13", "pannuke", "dsb2018", "nuinsseg")
CONF = (0.0, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
MPP = 0.25

class Norm(nn.Module):
    def __new__(cls, kind, c):
        return nn.BatchNorm2d(c) if kind == "bn" else nn.GroupNorm(max(c // 8, 1), c) if kind == "gn" else nn.InstanceNorm2d(c, affine=True)

class IBN(nn.Module):
    def __init__(self, c):
        super().__init__(); self.h = c // 2; self.a = nn.InstanceNorm2d(self.h, affine=True); self.b = nn.BatchNorm2d(c - self.h)
    def forward(self, x): return torch.cat([self.a(x[:, :self.h].contiguous()), self.b(x[:, self.h:].contiguous())], 1)

def norm(kind, c): return IBN(c) if kind == "ibn" else Norm(kind, c)
def conv(cin, cout, kind, k=3): return nn.Sequential(nn.Conv2d(cin, cout, k, padding=k // 2, bias=False), norm(kind, cout), nn.ReLU())

class TrunkSegmenter(nn.Module):
    """Trunk, and a decoder with skips at every stride."""
    multiple_px = 16
    def __init__(self, wheel, widths=(64, 48, 32), kind="bn", stem=True, deepest=4, mix=0.0):
        super().__init__()
        self.trunk = Trunk(11 if deepest == 4 else 5).load_wheel(wheel)
        for p in self.trunk.parameters(): p.requires_grad_(False)
        ch = [16, 24, 40, 112][:deepest]
        self.deepest, self.mix = deepest, mix
        widths = list(widths)[-(deepest - 1):]
        self.reduce, self.mixc = nn.ModuleList(), nn.ModuleList()
        prev = ch[-1]
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), conv(12, 32, kind)) if stem else None
        for i, w in enumerate(widths):
            skip = ch[-2 - i] + (32 if stem and i == len(widths) - 1 else 0)
            self.reduce.append(conv(prev + skip, w, kind)); self.mixc.append(conv(w, w, kind)); prev = w
        self.head = nn.Conv2d(prev, 8, 3, padding=1)
    def train(self, mode=True):
        super().train(mode); self.trunk.eval(); return self
    def features(self, pixels):
        return self.trunk(pixels)
    def forward(self, pixels):
        tuned = any(p.requires_grad for p in self.trunk.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and tuned):
            fs = self.trunk(pixels)
        if self.training and self.mix:  # MixStyle (Zhou et al. 2021): statistics of two crops are mixed
            fs = list(fs)
            lam = torch.distributions.Beta(0.1, 0.1).sample((len(pixels), 1, 1, 1)).to(pixels)
            use = (torch.rand(len(pixels), 1, 1, 1, device=pixels.device) < self.mix).to(pixels)
            lam = 1 - use * (1 - torch.maximum(lam, 1 - lam))
            perm = torch.randperm(len(pixels), device=pixels.device)
            for i in range(2):
                f = fs[i].float(); m = f.mean((2, 3), keepdim=True); s = f.std((2, 3), keepdim=True) + 1e-4
                fs[i] = ((f - m) / s * (lam * s + (1 - lam) * s[perm]) + lam * m + (1 - lam) * m[perm]).to(fs[i].dtype)
        x = fs[-1]
        for i, (r, m) in enumerate(zip(self.reduce, self.mixc)):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            parts = [x, fs[-2 - i]]
            if self.stem is not None and i == len(self.reduce) - 1: parts.append(self.stem((pixels - 0.5) / 0.25))
            x = m(r(torch.cat(parts, 1)))
        return F.pixel_shuffle(self.head(x), 2)

ARMS = {
    # name: (network, steps, crop, batch, tune)
    "S": dict(net="S"),
    "S4k": dict(net="S", steps=4000),
    "T-bn": dict(kind="bn"),
    "T-gn": dict(kind="gn"),
    "T-in": dict(kind="in"),
    "T-ibn": dict(kind="ibn"),
    "T-mix": dict(kind="bn", mix=0.5),
    "T-8": dict(kind="bn", deepest=3),
    "T-nostem": dict(kind="bn", stem=False),
    "T-wide": dict(kind="bn", widths=(128, 96, 64)),
    "T-256": dict(kind="bn", crop=256, batch=4),
    "T-192": dict(kind="bn", crop=192, batch=7),
    "T-late": dict(kind="bn", tune=True),
    "T-gn-mix": dict(kind="gn", mix=0.5),
    "T-3k": dict(kind="bn", steps=3000),
}

def build(arm, wheel, device):
    a = ARMS[arm]
    if a.get("net") == "S":
        from histocli.model.segmenter import architecture_of_size, build_segmenter
        net = build_segmenter(architecture_of_size("S"))
    else:
        net = TrunkSegmenter(wheel, a.get("widths", (64, 48, 32)), a.get("kind", "bn"), a.get("stem", True), a.get("deepest", 4), a.get("mix", 0.0))
    return net.to(device).to(memory_format=torch.channels_last)

def patch_set(folder):
    from histocli.training.sampling import PatchSet
    load = lambda n: np.load(folder / f"{n}.npy", mmap_mode="c")
    images = load("images")
    n = len(images)
    return PatchSet(images=images, nucleus=load("nucleus"), valid=load("valid"), distance=load("distance"), weight=np.ones(n, np.float32), share=np.full(n, 1 / n))

def arrays(store, folder):
    """Patches with their targets, glass white, as files that processes share."""
    from histocli.stores.patches import PatchStore
    from histocli.stages.common import patch_glass_levels
    from histocli.model.normalisation import glass_to_white
    from histocli.instances.targets import normalised_distance
    s = PatchStore.open(store); folder.mkdir(parents=True, exist_ok=True)
    im, nu, va, di = [], [], [], []
    for b in s.batches():
        images, labels = s.read(b)
        for image, lab, level in zip(images, labels, patch_glass_levels(s, b, images)):
            im.append(glass_to_white(image, level)); nu.append(lab > 0); va.append(lab >= 0); di.append(normalised_distance(lab))
    for n, v in (("images", im), ("nucleus", nu), ("valid", va), ("distance", di)): np.save(folder / f"{n}.npy", np.stack(v))

def learn(arm, folder, seed, wheel, device, steps=None):
    from histocli.training.loop import Schedule, learning_rate_at, LARGEST_GRADIENT
    from histocli.training.losses import segmentation_loss
    from histocli.training.sampling import draw_batch
    from histocli.training.augmentation import Augmentation
    from histocli.base.rng import rng_for
    a = ARMS[arm]; steps = steps or a.get("steps", STEPS)
    torch.manual_seed(seed)
    net = build(arm, wheel, device); data = patch_set(folder)
    opt = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=3e-3, weight_decay=1e-3, fused=device.type == "cuda")
    net.train(); started = time.time(); late = False
    for step in range(steps):
        done = step / steps
        if a.get("tune") and done >= 0.7 and not late:  # late, small: with frozen statistics
            late = True
            extra = [p for p in net.trunk.parameters()]
            for p in extra: p.requires_grad_(True)
            opt.add_param_group({"params": extra, "lr": 1e-4, "small": True})
        for g in opt.param_groups:
            g["lr"] = learning_rate_at(done, 3e-3) * (0.03 if g.get("small") else 1)
        batch = draw_batch(data, a.get("batch", 16), a.get("crop", 128), Augmentation(), rng_for(seed, "train", step), device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = net(batch.pixels.contiguous(memory_format=torch.channels_last))
        loss = segmentation_loss(logits, batch.nucleus, batch.distance, batch.valid, batch.weight, batch.borders, batch.contact)
        opt.zero_grad(set_to_none=True); loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in opt.param_groups for p in g["params"]], LARGEST_GRADIENT, foreach=True)
        opt.step()
    return net, float(loss.detach()), time.time() - started

@torch.no_grad()
def maps_of(net, image, device, m=64):
    h, w = image.shape[:2]
    px = getattr(net, "multiple_px", 16)
    m = min(m, h, w)
    pad = [(m, m + (-s - 2 * m) % px) for s in (h, w)]
    x = np.pad(image, [*pad, (0, 0)], mode="symmetric")
    t = torch.from_numpy(x).to(device).permute(2, 0, 1)[None].float().div(255).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        y = net(t)
    y = torch.sigmoid(y.float())[0, :, m:m + h, m:m + w].permute(1, 2, 0)
    return np.ascontiguousarray(y.cpu().numpy())

def score(net, data, name, device):
    from PIL import Image
    import tifffile
    from dataclasses import replace
    from histocli.instances.targets import maps_to_instances, mean_within, DEFAULT_THRESHOLDS
    from histocli.metrics.counts import count
    from histocli.metrics.contrast import contrast_and_found
    from histocli.model.normalisation import glass_to_white
    from histocli.optics.density import white_level
    net.eval(); rows = []
    terciles = []
    for path in sorted((data / "dev" / name / "images").iterdir()):
        image = np.asarray(Image.open(path).convert("RGB"))
        truth = tifffile.imread(data / "dev" / name / "labels" / f"{path.stem}.tif").astype(np.int32)
        maps = maps_of(net, glass_to_white(image, white_level(image)), device)
        labels = maps_to_instances(maps, MPP, replace(DEFAULT_THRESHOLDS, confidence=0.0))
        mean = mean_within(labels, maps[..., 0])
        row = {"image": path.stem, "at": {}}
        for c in CONF:
            kept = mean >= c; kept[0] = False
            found = np.where(kept[labels], labels, 0).astype(np.int32)
            k = count(truth, found)
            tp, fp, fn = k.true_positives, k.false_positives, k.false_negatives
            row["at"][c] = [round(float(v), 4) for v in (k.aji, k.panoptic_quality, k.dice, tp / max(tp + fp, 1), tp / max(tp + fn, 1), (found > 0).sum() / max((truth > 0).sum(), 1))]
        rows.append(row)
    return rows

def job(spec):
    if spec["arm"].startswith("box-"): return box(spec)
    arm, pool, seed = spec["arm"], spec["pool"], spec["seed"]
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    root, data = Path(spec["root"]), Path(spec["data"])
    net, loss, seconds = learn(arm, root / pool, seed, spec["wheel"], device, spec.get("steps"))
    out = {"arm": arm, "pool": pool, "seed": seed, "loss": loss, "train_s": round(seconds, 1), "sets": {}}
    t = time.time()
    for name in spec["score"]: out["sets"][name] = score(net, data, name, device)
    out["score_s"] = round(time.time() - t, 1)
    if spec.get("save"): torch.save({k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}, spec["save"])
    return out

def box(spec):
    """Score a model that ships."""
    from histocli.model.segmenter import build_segmenter
    from histocli.stores.box import find_box_model
    from histocli.stores.models import read_model
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    header, tensors = read_model(find_box_model(spec["arm"][4:]).path)
    net = build_segmenter(header.architecture); net.load_state_dict(tensors); net = net.to(device).to(memory_format=torch.channels_last)
    return {"arm": spec["arm"], "pool": "box", "seed": 0, "loss": None, "train_s": 0, "score_s": 0, "sets": {name: score(net, Path(spec["data"]), name, device) for name in SETS}}

STEPS = 1500

def main():
    global STEPS
    p = argparse.ArgumentParser(); p.add_argument("--data", type=Path, required=True); p.add_argument("--root", type=Path, required=True)
    p.add_argument("--wheel", required=True); p.add_argument("--out", type=Path, required=True); p.add_argument("--seconds", type=float, default=400)
    p.add_argument("--arms", default="T-bn,S,T-gn,T-mix,T-8,T-ibn,T-late,T-256,T-wide,T-nostem"); p.add_argument("--seeds", default="0,1,2")
    p.add_argument("--pools", default=",".join(SETS)); p.add_argument("--n", type=int, default=2000); p.add_argument("--procs", type=int, default=10)
    p.add_argument("--steps", type=int); p.add_argument("--extra", action="store_true"); p.add_argument("--workers", default="auto")
    o = p.parse_args(); begun = time.time(); STEPS = o.steps or STEPS
    o.out.mkdir(parents=True, exist_ok=True)
    pools = o.pools.split(",")
    def folders(pool):
        f = [o.data / "references/tcga"] + [o.data / "dev" / s / "images" for s in SETS if s != pool]
        if pool == "box": f = [o.data / "references/tcga", o.data / "references/nuinsseg", o.data / "dev/tnbc/images"]
        elif pool != "nuinsseg": f.append(o.data / "references/nuinsseg")
        if pool in ("monuseg13", "pannuke"):  # both come from TCGA, and so do references/tcga: the archive is left out as well? no: other laboratories are kept, as in accuracy.py
            pass
        return f
    def draw(pool):
        if (o.root / pool / "distance.npy").exists(): return
        n = o.n if pool != "box" else o.n * 2
        subprocess.run([sys.executable, "-m", "histocli", "generate", *map(str, folders(pool)), "-o", str(o.root / f"{pool}.zarr"), "--n", str(n), "--mpp", "0.25", "--reference-mpp", "0.25", "--seed", "0", "--workers", o.workers, "-q", "--device", "cpu"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([sys.executable, __file__, "--arrays", str(o.root / f"{pool}.zarr"), str(o.root / pool)], check=True)
        print(pool, "drawn", round(time.time() - begun, 1), flush=True)
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(6) as threads: list(threads.map(draw, (["box"] if o.extra else []) + pools))
    import multiprocessing as mp
    specs = []
    base = dict(root=str(o.root), data=str(o.data), wheel=o.wheel, steps=o.steps)
    if o.extra:
        specs += [base | dict(arm="box-S", pool="box", seed=0), base | dict(arm="box-M", pool="box", seed=0)]
        specs.append(base | dict(arm="T-bn", pool="box", seed=0, score=list(SETS), steps=4000, save=str(o.out / "box-T-bn.pt")))
        specs.append(base | dict(arm="T-gn", pool="box", seed=0, score=list(SETS), steps=4000, save=str(o.out / "box-T-gn.pt")))
    for seed in map(int, o.seeds.split(",")):
        for arm in o.arms.split(","):
            for pool in pools: specs.append(base | dict(arm=arm, pool=pool, seed=seed, score=[pool]))
    with mp.get_context("spawn").Pool(o.procs) as pool, open(o.out / "rows.jsonl", "a") as file:
        pending = [pool.apply_async(job, (s,)) for s in specs]
        left = list(zip(specs, pending))
        while left and time.time() - begun < o.seconds:
            for item in list(left):
                if item[1].ready():
                    left.remove(item)
                    try:
                        r = item[1].get(); file.write(json.dumps(r) + "\n"); file.flush()
                        m = {s: [round(float(np.mean([row["at"][0.75][k] for row in rows])), 4) for k in (0, 1, 2)] for s, rows in r["sets"].items()}
                        print(round(time.time() - begun, 1), r["arm"], r["pool"], r["seed"], r["train_s"], r["score_s"], m, flush=True)
                    except Exception as e: print("FAILED", item[0]["arm"], item[0]["pool"], repr(e)[:300], flush=True)
            time.sleep(0.2)
        pool.terminate()
    print("done", round(time.time() - begun, 1), "left", len(left), flush=True)
if __name__ == "__main__":
    if sys.argv[1] == "--arrays": arrays(Path(sys.argv[2]), Path(sys.argv[3]))
    else: main()
