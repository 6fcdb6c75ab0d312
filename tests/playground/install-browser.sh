#!/bin/sh
# Where tests may install what they need (CI=true, as root, on Debian), get a browser.
# Elsewhere nothing is done: the tests say that they are skipped, and why.
set -eu
if command -v chromedriver >/dev/null 2>&1; then exit 0; fi
if [ "${CI:-}" = true ] && command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes chromium chromium-driver >/dev/null
fi
