#!/bin/sh
# Installs completions and manual pages of a coracle that is in PATH, for this user, or below a PREFIX for a package.
#
#   contrib/docs.sh [PREFIX]
set -eu

prefix=${1:-$HOME/.local}
share=$prefix/share
coracle=${CORACLE:-coracle}

mkdir -p "$share/man/man1" "$share/bash-completion/completions" "$share/zsh/site-functions" \
    "$share/fish/vendor_completions.d"
"$coracle" __man write "$share/man/man1"
"$coracle" completion bash >"$share/bash-completion/completions/coracle"
"$coracle" completion zsh >"$share/zsh/site-functions/_coracle"
"$coracle" completion fish >"$share/fish/vendor_completions.d/coracle.fish"
echo "installed below $share"
