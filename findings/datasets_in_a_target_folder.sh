#!/usr/bin/env bash
# Packages laid into a folder by `pip install --target` and found through PYTHONPATH, as on clusters and in containers.
# Expected: the folder is as good as an environment's site-packages; pyarrow, pandas and torch work from there.
# Happens: datasets cannot make a single data set: its fingerprint pickles a pyarrow table with dill, which pickles modules
# outside site-packages by their CONTENT and fails at a class of pyarrow's ("Can't pickle <class 'MonthDayNano'>").
# Users of hf: sources meet this; an environment of its own (python3 -m venv) is the way out.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --target "$dir/site" datasets==5.2.0 pyarrow==26.0.1 2>/dev/null
python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1 2>/dev/null
cat > "$dir/check.py" <<'PY'
import datasets

try:
    print("rows:", len(datasets.Dataset.from_dict({"x": [1, 2]})))
except Exception as error:
    print(type(error).__name__ + ":", error)
PY
export HF_HUB_OFFLINE=1 HF_HOME="$dir/home"
target=$(cd "$dir" && PYTHONPATH="$dir/site" python3 -W ignore check.py 2>/dev/null)
venv=$(cd "$dir" && "$dir/venv/bin/python" -W ignore check.py)
echo "datasets 5.2.0, pyarrow 26.0.1"; echo "--target: $target"; echo "venv: $venv"
[[ $target == PicklingError* && $venv == "rows: 2" ]] || { echo changed; exit 1; }
# Output:
# datasets 5.2.0, pyarrow 26.0.1
# --target: PicklingError: Can't pickle <class 'MonthDayNano'>: it's not found as builtins.MonthDayNano
# venv: rows: 2
