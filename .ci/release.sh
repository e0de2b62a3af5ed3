#!/usr/bin/env bash
# What goes to the package registry, built and tried: a source archive and a wheel, checked by twine, each installed into a
# fresh environment of each Python that is named, where it must import, draw and write a picture.
#
# usage: bash .ci/release.sh [python3.11 python3.12 python3.13]
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
rm -rf dist
python3 -m venv "$work/build"
"$work/build/bin/pip" install -q build twine
"$work/build/bin/python" -m build --outdir dist . >"$work/log" || { tail -20 "$work/log"; exit 1; }
"$work/build/bin/twine" check --strict dist/*
for python in "${@:-python3}"; do
  for file in "$PWD"/dist/*.whl "$PWD"/dist/*.tar.gz; do
    echo "== $("$python" --version), $(basename "$file")"
    "$python" -m venv "$work/venv"
    "$work/venv/bin/pip" install -q "$file"
    (cd "$work" && venv/bin/python -c 'import edm_nbdev as edm; print(edm.__version__, edm.__file__, edm.list_models())' &&
     venv/bin/edm_sample_all digits --per_class 2 --out all.png && test -s all.png)
    rm -rf "$work/venv" "$work/all.png"
  done
done
