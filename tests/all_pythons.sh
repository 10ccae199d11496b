#!/bin/sh
# Runs the tests on every supported Python that is installed, each in its own environment.
set -eu

ran=""
for version in 3.11 3.12 3.13 3.14; do
    python=""
    for candidate in "python$version" "$HOME"/.pyenv/versions/"$version".*/bin/python; do
        if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c '' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "Python $version is not installed: skipped"
        continue
    fi
    echo "== Python $version"
    make run-tests PYTHON="$python" VENV=".venv-$version"
    ran="$ran $version"
done
[ -n "$ran" ] || { echo "no supported Python found" >&2; exit 1; }
echo "ran on:$ran"
