"""A stand-in for pip, with the one part of it that setup.sh imports."""

import sys

import packaging
import packaging.utils
import packaging.version

sys.modules["pip._vendor"] = sys.modules["pip._vendor.packaging"] = packaging
for name in ("utils", "version"):
    sys.modules[f"pip._vendor.packaging.{name}"] = sys.modules[f"packaging.{name}"]
