#!/usr/bin/env bash
# TIFFs of cameras and scanners say with tag 274 (orientation) that they lie on their side. Pillow turns them since version 6.
# Expected: the pixels are the same whether Pillow is given a path or the bytes of the file.
# Happens: an uncompressed file that is opened by its path is mapped into memory with rows of the length that they have once turned; pixels of
# different rows are mixed and the result lies on its side still. From bytes the same file is right. Floats are right from both.
# Here masks and depths are read from bytes (annotations/masks.py, images/decode.py).
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet pillow==12.3.0 tifffile==2026.3.3 numpy==2.4.6 2>/dev/null
cd "$dir" && "$dir/venv/bin/python" - <<'PY'
import io
import numpy, PIL, tifffile
from PIL import Image

tifffile.imwrite("side.tif", numpy.arange(1, 7, dtype="uint16").reshape(2, 3), extratags=[(274, "H", 1, 6, False)])
with Image.open("side.tif") as image:
    path = numpy.asarray(image).tolist()
with Image.open(io.BytesIO(open("side.tif", "rb").read())) as image:
    content = numpy.asarray(image).tolist()
print(f"Pillow {PIL.__version__}: from the path {path}, from bytes {content}")
assert content == [[4, 1], [5, 2], [6, 3]], "changed"
assert path == [[5, 3, 1], [6, 4, 2]], "changed"
PY
# Output:
# Pillow 12.3.0: from the path [[5, 3, 1], [6, 4, 2]], from bytes [[4, 1], [5, 2], [6, 3]]
