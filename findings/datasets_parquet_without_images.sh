#!/usr/bin/env bash
# A Hugging Face dataset of images that are known by their paths is written to Parquet, to be moved or shared.
# Expected: the Parquet file holds the images, as that of a dataset pushed to the Hub does.
# Happens: Dataset.to_parquet stores {"bytes": null, "path": "/the/old/place.png"} and says nothing; elsewhere the data set is empty.
# Here sources/parquet.py follows such a path and says so where it leads nowhere. (embed_external_files of the Arrow writer has no such switch here.)
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1 pillow==12.3.0 2>/dev/null
cat > "$dir/check.py" <<'PY'
import os
import datasets, pyarrow.parquet
from PIL import Image

Image.new("RGB", (8, 8)).save("a.png")
rows = datasets.Dataset.from_dict({"image": [os.path.abspath("a.png")]}, features=datasets.Features({"image": datasets.Image()}))
rows.to_parquet("rows.parquet")
stored = pyarrow.parquet.read_table("rows.parquet").to_pylist()[0]["image"]
os.rename("a.png", "moved.png")
try:
    datasets.load_dataset("parquet", data_files="rows.parquet", cache_dir="cache")["train"][0]
    said = "readable"
except FileNotFoundError as error:
    said = type(error).__name__
print(f"datasets {datasets.__version__}: bytes {stored['bytes']}, path ends with {stored['path'][-5:]}; after the image moved: {said}")
assert stored["bytes"] is None and said == "FileNotFoundError", "changed"
PY
cd "$dir" && HF_HUB_OFFLINE=1 HF_HOME="$dir/home" HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$dir/venv/bin/python" check.py
# Output:
# datasets 5.2.0: bytes None, path ends with a.png; after the image moved: FileNotFoundError
