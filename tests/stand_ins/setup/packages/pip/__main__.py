"""A stand-in for pip: logs each call, builds and installs a stand-in for Apex, and does nothing else.

STAND_IN_BUILD: fails, empty, "without CUDA extensions", "cannot be installed", or "computes in float32".
"""

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

ARGUMENTS = [word for word in sys.argv[1:] if word != "--disable-pip-version-check"]
FAULT = os.environ.get("STAND_IN_BUILD", "")
SITE = Path(__file__).parent.parent
AMP = """
import contextlib
import types

import torch
import torch.nn.functional as F

state = {"loss_scale": 65536.0, "skip": False}
master_params = None


def initialize(model, optimizer, opt_level="O1", verbosity=1):
    linear, norm, step = F.linear, F.layer_norm, optimizer.step
    F.linear = lambda x, w, b=None: linear(x.to(HALF), w.to(HALF), None if b is None else b.to(HALF))
    F.layer_norm = lambda x, *rest: norm(x.float(), *rest)
    optimizer.step = types.MethodType(lambda _: state["skip"] or step(), optimizer)
    return model, optimizer


@contextlib.contextmanager
def scale_loss(loss, optimizer):
    yield loss.float() * state["loss_scale"]
    gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
    state["skip"] = not all(gradient.isfinite().all() for gradient in gradients)
    for gradient in gradients:
        gradient /= state["loss_scale"]
    if state["skip"]:
        state["loss_scale"] /= 2


def state_dict():
    return {"loss_scaler0": state}
"""


def build(folder):
    for number in (1, 2, 3):
        print(f"  [{number}/3] nvcc -c csrc/file_{number}.cu", flush=True)
    if FAULT == "fails":
        sys.exit('  csrc/mlp.cpp(7): error: identifier "x" is undefined')
    folder.mkdir(parents=True)
    if FAULT != "empty":
        half = "torch.float32" if FAULT == "computes in float32" else "torch.float16"
        with zipfile.ZipFile(folder / "apex-0.1-cp311-cp311-linux_x86_64.whl", "w") as wheel:
            wheel.writestr("apex/__init__.py", "")
            if FAULT != "without CUDA extensions":
                wheel.writestr("amp_C.py", "")
            wheel.writestr("apex/amp.py", AMP.replace("HALF", half))
            wheel.writestr("apex-0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: apex\nVersion: 0.1\n")


def install(wheel):
    if FAULT == "cannot be installed":
        sys.exit("ERROR: apex-0.1 is not a supported wheel.")
    zipfile.ZipFile(wheel).extractall(SITE)
    origin = json.dumps({"url": Path(wheel).as_uri(), "archive_info": {}})
    (SITE / "apex-0.1.dist-info" / "direct_url.json").write_text(origin)


with open(os.environ["STAND_IN_LOG"], "a") as log:
    variables = " ".join(f"{name}={os.environ.get(name)}" for name in ("TORCH_CUDA_ARCH_LIST", "MAX_JOBS"))
    print("pip", *ARGUMENTS, variables, file=log)
if ARGUMENTS[0] == "uninstall":
    shutil.rmtree(SITE / "apex")
    shutil.rmtree(SITE / "apex-0.1.dist-info")
elif ARGUMENTS[0] == "wheel":
    build(Path(ARGUMENTS[ARGUMENTS.index("--wheel-dir") + 1]))
elif ARGUMENTS[-1].endswith(".whl"):
    install(ARGUMENTS[-1])
elif "ninja" in ARGUMENTS:
    sys.exit("ERROR: No matching distribution found for ninja")
