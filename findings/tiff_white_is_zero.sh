#!/usr/bin/env bash
# A gray TIFF says with PhotometricInterpretation whether 0 is black (MinIsBlack) or white (MinIsWhite, common in scans and microscopy).
# Expected: a library either turns MinIsWhite into "0 is black" or it does not, whatever the depth.
# Happens: Pillow turns 8 bits and leaves 16 bits as stored, tifffile leaves both. The same scan saved with more bits is a negative.
# Here images/ turns every depth by the tag, whichever library decodes it.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet pillow==12.3.0 tifffile==2026.3.3 numpy==2.4.6 2>/dev/null
cd "$dir" && "$dir/venv/bin/python" - <<'PY'
import numpy, PIL, tifffile
from PIL import Image

seen = {}
for name, values in (("8 bits", numpy.array([[0, 10, 200, 255]], "uint8")), ("16 bits", numpy.array([[0, 2570, 51400, 65535]], "uint16"))):
    tifffile.imwrite("white.tif", values, photometric="miniswhite")
    with Image.open("white.tif") as image:
        seen[name] = numpy.array(image).tolist(), tifffile.imread("white.tif").tolist()
print(f"Pillow {PIL.__version__}, tifffile {tifffile.__version__}")
for name, (pillow, other) in seen.items():
    print(f"{name}: Pillow {pillow}, tifffile {other}")
assert seen["8 bits"] == ([[255, 245, 55, 0]], [[0, 10, 200, 255]]), "changed"
assert seen["16 bits"] == ([[0, 2570, 51400, 65535]], [[0, 2570, 51400, 65535]]), "changed"
PY
# Output:
# Pillow 12.3.0, tifffile 2026.3.3
# 8 bits: Pillow [[255, 245, 55, 0]], tifffile [[0, 10, 200, 255]]
# 16 bits: Pillow [[0, 2570, 51400, 65535]], tifffile [[0, 2570, 51400, 65535]]
