#!/usr/bin/env bash
# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0
#
# Runs the tests with the versions that the package allows, each row in a virtual environment of its own.
#   tools/check_matrix.sh                       all rows, the unit tests
#   tools/check_matrix.sh oldest -- tests -x    one row (or several), with arguments for pytest after --
# "full" has anomalib's own pin of open_clip, older than 2.26.1, which is 2.24.0 on the index; "export" the newest OpenVINO with the newest NNCF.
# An environment takes 5 to 7 GB where torch comes with CUDA's libraries; it is removed after its row, and with
# KEEP=1 it is kept in MATRIX_FOLDER and used again.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

rows() { # name, Python, packages
  cat <<'ROWS'
oldest     3.10 anomalib==2.7.0 torch==2.6.0 torchvision==0.21.0 open_clip_torch==2.24.0
clip-2.24  3.11 open_clip_torch==2.24.0
clip-2.32  3.11 open_clip_torch==2.32.0
clip-3.3   3.11 open_clip_torch==3.3.0
full       3.11 anomalib[full]==2.7.0
pandas-2   3.11 pandas<3
torch-2.15 3.12 torch==2.15.* torchvision
export     3.12 openvino==2026.4.* nncf==3.4.*
newest     3.13 anomalib torch torchvision open_clip_torch
ROWS
}

chosen=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do chosen+=("$1") && shift; done
[ $# -gt 0 ] && shift
pytest_arguments=("${@:-tests/unit}")
folder=${MATRIX_FOLDER:-$(mktemp -d)}
summary=()
failures=0

interpreter() { # the newest Python of a minor version, from the path or from pyenv, whose shims may stand for nothing
  "python$1" --version >/dev/null 2>&1 && command -v "python$1" && return
  find "${PYENV_ROOT:-$HOME/.pyenv}/versions" -maxdepth 3 -path "*/$1.*/bin/python3" 2>/dev/null | sort -V | tail -n 1
}

run_row() { # name, Python, packages
  local name=$1 version=$2 python environment="$folder/$1"
  shift 2
  python=$(interpreter "$version")
  if [ -z "$python" ]; then
    summary+=("$name: skipped, there is no Python $version here")
    return
  fi
  echo "== $name: $("$python" --version), $*"
  if ! { [ -x "$environment/bin/python" ] || "$python" -m venv "$environment"; } ||
    ! "$environment/bin/python" -m pip install --quiet ".[test]" "$@"; then
    summary+=("$name: could not be installed")
    failures=1
    return
  fi
  if "$environment/bin/python" -m pytest -q "${pytest_arguments[@]}"; then
    summary+=("$name: passed")
  else
    summary+=("$name: FAILED")
    failures=1
  fi
  [ -n "${KEEP:-}" ] || rm -rf "$environment"
}

while read -r name version packages; do
  if [ ${#chosen[@]} -eq 0 ] || [[ " ${chosen[*]} " == *" $name "* ]]; then
    # shellcheck disable=SC2086  # the packages are words
    run_row "$name" "$version" $packages </dev/null
  fi
done < <(rows)
printf '%s\n' "" "${summary[@]}"
exit "$failures"
