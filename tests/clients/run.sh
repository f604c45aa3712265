#!/usr/bin/env bash
# Runs the tests of real client packages, each group in an environment of its own since their
# dependencies exclude each other: tests/clients/run.sh PYTHON, which has budmlx and makes them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export BUDMLX_PYTHON=$1
environments=${BUDMLX_CLIENT_VENVS:-$PWD/.venv-clients}

group() {
  local name=$1 packages=$2 python
  shift 2
  python=$environments/$name/bin/python
  # Installed again only when the list has changed.
  if [ ! -x "$python" ] || [ "$(cat "$environments/$name/packages" 2>/dev/null)" != "$packages" ]; then
    rm -rf "${environments:?}/$name"
    "$BUDMLX_PYTHON" -m venv "$environments/$name"
    # shellcheck disable=SC2086  # The packages are words.
    "$python" -m pip install --quiet --disable-pip-version-check $packages pytest pytest-timeout
    echo "$packages" >"$environments/$name/packages"
  fi
  echo "== $name"
  "$python" -m pytest "${@/#/tests/clients/}"
}

group sdk "cerebras-cloud-sdk==1.91.0 atoma-sdk==0.1.3" \
  test_cerebras_package.py test_atoma_package.py
group openai "openai langchain-openai==1.7.3 litellm==1.102.4 instructor==1.17.0
llama-index-embeddings-openai-like==0.4.0" \
  test_langchain_package.py test_litellm_package.py test_openai_package.py \
  test_instructor_package.py test_vectors_packages.py
group responses "openai==3.57.0 openai-agents==0.24.0" test_responses_packages.py
group anthropic "anthropic==2.14.0 langchain-anthropic==1.7.10 litellm==1.110.2" \
  test_anthropic_package.py test_anthropic_others.py
group anthropic-old "anthropic==0.75.0" test_anthropic_package.py
group pydantic-ai "pydantic-ai-slim[openai,anthropic]==2.68.0" test_pydantic_ai.py
group ollama "ollama==0.6.3 langchain-ollama==1.1.0 litellm==1.110.2 llm==0.36 llm-ollama==0.19.1
llama-index-llms-ollama==0.11.0" test_ollama_package.py
group schemathesis "schemathesis==4.32.5" test_schemathesis.py

if command -v npm >/dev/null; then
  tests/clients/npm.sh "$environments/npm"
fi
group agents "" test_npm_agents.py
