#!/usr/bin/env bash
# `import openvino` in a program whose user was never asked anything.
# Expected: nothing leaves the machine; the text of openvino-telemetry, which comes with it, says "Sending of telemetry data
# requires user's consent" and that without a file of that consent no data will be transmitted.
# Happens: without such a file an identifier is drawn, kept in ~/intel, and the import is sent to Google Analytics; convert_model
# and NNCF send version, framework, arguments, result. `opt_in_out --opt_out` beforehand prevents it. Here exports/openvino
# imports it as if openvino_telemetry were not installed, which it does without.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet openvino==2026.4.1 numpy==2.4.6 2>/dev/null
mkdir "$dir/home"
cat > "$dir/check.py" <<'PY'
import sys
from pathlib import Path

sent = []
if sys.argv[1] == "as it comes":
    from openvino_telemetry.utils.sender import TelemetrySender

    TelemetrySender.send = lambda self, backend, message: sent.append(message)  # nothing leaves this machine either
else:
    sys.modules["openvino_telemetry"] = None
import openvino

kept = sorted(each.name for each in Path.home().glob("intel/*"))
print(f"{sys.argv[1]}: {len(sent)} message, in ~/intel: {', '.join(kept) or 'nothing'}")
assert bool(sent) == bool(kept) == (sys.argv[1] == "as it comes"), "changed"
PY
env -u CI HOME="$dir/home" "$dir/venv/bin/python" "$dir/check.py" "without the package"
env -u CI HOME="$dir/home" "$dir/venv/bin/python" "$dir/check.py" "as it comes"
# Output:
# without the package: 0 message, in ~/intel: nothing
# as it comes: 1 message, in ~/intel: openvino_ga_cid, stats
