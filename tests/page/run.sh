#!/usr/bin/env bash
# Runs the tests of the page in a real browser, which is the machine's own chromium:
# tests/page/run.sh PYTHON [ARGUMENT...], with the interpreter that has budmlx; the rest is pytest's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export BUDMLX_PYTHON=$1
shift
environment=${BUDMLX_PAGE_VENV:-$PWD/.venv-page}
packages="playwright==1.65.2 pytest pytest-timeout"
axe="axe-core@4.14.1"

# Installed again only when the list has changed.
if [ "$(cat "$environment/packages" 2>/dev/null)" != "$packages $axe" ]; then
  rm -rf "$environment"
  "$BUDMLX_PYTHON" -m venv "$environment"
  # shellcheck disable=SC2086  # The packages are words.
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check $packages
  if command -v npm >/dev/null; then
    npm install --prefix "$environment/npm" --no-save --no-audit --no-fund --ignore-scripts --loglevel error "$axe"
  fi
  echo "$packages $axe" >"$environment/packages"
fi
export BUDMLX_AXE=$environment/npm/node_modules/axe-core/axe.min.js
case "${1:-}" in
tests/*) ;;
*) set -- tests/page "$@" ;;
esac
exec "$environment/bin/python" -m pytest "$@"
