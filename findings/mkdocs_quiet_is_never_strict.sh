#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# mkdocs build --strict passes with broken links as soon as --quiet is given.
#
# Guess: --quiet leaves out what is printed, and --strict still ends with 1 where there are warnings; together they are what a build
# server wants.
# Seen: --strict counts the warnings that reach a handler of logging, and --quiet raises the level of the logger, so that none does. The
# count is 0, and a page with a link to nowhere builds with exit code 0. Without --quiet the same build ends with 1.
# Who is hurt: every build that was made quiet: its check of the links cannot fail, and nothing says so.
# What helps: leave --quiet out, or filter the output.
# mkdocs 1.6.1, mkdocs/__main__.py (quiet_option) and mkdocs/commands/build.py (the counting handler).
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check mkdocs==1.6.1
cd "$work"
mkdir docs
echo "[nowhere](nowhere.md)" > docs/index.md
echo "site_name: links" > mkdocs.yml
"$work/environment/bin/mkdocs" --version
build() {
    local code=0
    "$work/environment/bin/mkdocs" build "$@" > build.log 2>&1 || code=$?
    echo "mkdocs build $*: exit code $code, warnings printed: $(grep -c "^WARNING" build.log || true)"
    return "$code"
}
build --strict && exit 1 # it fails, as it should
build --strict --quiet   # it passes
