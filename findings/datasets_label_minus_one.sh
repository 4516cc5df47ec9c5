#!/usr/bin/env bash
# ClassLabel of Hugging Face datasets, in a set in which some images have no label.
# Expected: "no label" is None (null), and an integer outside 0 .. classes - 1 is refused when the set is made.
# Happens: -1 is accepted by every constructor and comes back as -1 (public sets use it for "no label": test splits, SNLI);
# only int2str refuses it. Whoever trusts the column gets a class named -1 that is its own best neighbour.
# Here sources/ takes -1 of a ClassLabel as "no label".
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet datasets==5.2.0 2>/dev/null
cat > "$dir/check.py" <<'PY'
import datasets

features = datasets.Features({"label": datasets.ClassLabel(names=["cat", "dog"])})
rows = datasets.Dataset.from_dict({"label": [0, -1, 1]}, features=features)
try:
    said = rows.features["label"].int2str(-1)
except ValueError as error:
    said = str(error)
try:
    datasets.Dataset.from_dict({"label": [2]}, features=features)
    two = "accepted"
except ValueError:
    two = "refused"
print(f"datasets {datasets.__version__}: stored {list(rows['label'])}; 2 of two classes is {two}; int2str(-1): {said}")
assert list(rows["label"]) == [0, -1, 1] and two == "refused" and said == "Invalid integer class label -1", "changed"
PY
cd "$dir" && HF_HUB_OFFLINE=1 HF_HOME="$dir/home" "$dir/venv/bin/python" check.py
# Output:
# datasets 5.2.0: stored [0, -1, 1]; 2 of two classes is refused; int2str(-1): Invalid integer class label -1
