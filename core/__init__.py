"""What the processes of Modelpress share; imports neither `api` nor `workers`."""

import os

# onnxruntime reports its use to its maker unless this is set before it is imported; we never call home.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
