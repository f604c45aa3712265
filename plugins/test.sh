#!/usr/bin/env bash
# Runs the suite of every package here, each in an environment that has the working tree, its
# dependencies, and this one package: plugins/test.sh PYTHON [PLUGIN...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python=$1
shift
shared=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
root=$(dirname "$PWD")
environments=${BUDMLX_PLUGIN_VENVS:-$root/.venv/plugins}
if [ $# -eq 0 ]; then set -- */pyproject.toml; fi

for plugin in "$@"; do
  plugin=${plugin%/pyproject.toml}
  environment=$environments/$plugin
  if [ ! -x "$environment/bin/python" ]; then
    "$python" -m venv "$environment"
    own=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # What is installed for budmlx itself need not be installed once more.
    echo "import site; site.addsitedir('$shared')" >"$own/budmlx-dependencies.pth"
    echo "$root" >"$own/budmlx-working-tree.pth"
  fi
  echo "== $plugin"
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
    --no-build-isolation --no-deps "./$plugin"
  (cd "$plugin" && "$environment/bin/python" -m pytest -p no:cacheprovider)
done
