#!/usr/bin/env bash
# Installs the agents that tests run into a directory, from npm: tests/clients/npm.sh DIRECTORY
set -euo pipefail
packages="@anthropic-ai/claude-code@2.1.197 @openai/codex@0.171.0 opencode-ai@1.18.33"

[ "$(cat "$1/packages" 2>/dev/null)" != "$packages" ] || exit 0
mkdir -p "$1"
# shellcheck disable=SC2086  # The packages are words.
npm install --prefix "$1" --no-save --no-audit --no-fund --loglevel error $packages
echo "$packages" >"$1/packages"
