"""What the processes of Modelpress share; imports neither `api` nor `workers`."""

import os
import sys

# The runtimes report their use to their makers unless they are kept from it before they are imported; we never call
# home. OpenVINO does without its telemetry where that cannot be imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's own way to forbid an import
