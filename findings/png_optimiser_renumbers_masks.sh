#!/usr/bin/env bash
# Segmentation masks (VOC, DAVIS) are paletted PNGs whose pixel VALUES are the classes; the palette is only for looking at.
# Expected: a lossless optimiser leaves the values alone.
# Happens: oxipng keeps the picture and renumbers: classes 1 and 3 become 0 and 1, in another order, with exit code 0.
# Every tool that reads the values then measures other classes. Here annotations/ maps a known palette in another order back by its colours.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet pyoxipng==9.1.1 pillow==12.3.0 numpy==2.4.6 2>/dev/null
cd "$dir" && "$dir/venv/bin/python" - <<'PY'
import io
import numpy, oxipng
from PIL import Image

values = numpy.where(numpy.arange(400).reshape(20, 20) % 7 == 0, 1, 3).astype("uint8")
mask = Image.fromarray(values)
mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])  # the first colours of VOC
file = io.BytesIO()
mask.save(file, "PNG")
smaller = Image.open(io.BytesIO(oxipng.optimize_from_memory(file.getvalue())))
same = bool((numpy.array(smaller.convert("RGB")) == numpy.array(mask.convert("RGB"))).all())
before, after = numpy.unique(values).tolist(), numpy.unique(numpy.array(smaller)).tolist()
swapped = int(numpy.array(smaller)[0, 0]), int(numpy.array(smaller)[0, 1])
print(f"same picture: {same}; values {before} became {after}: 1 is now {swapped[0]}, 3 is now {swapped[1]}")
assert same and after == [0, 1] and swapped == (1, 0), "changed"
PY
# Output (pyoxipng 9.1.1):
# same picture: True; values [1, 3] became [0, 1]: 1 is now 1, 3 is now 0
