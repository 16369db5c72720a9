#!/bin/sh
# Runs a test with a folder of its own for what is kept between runs: another test's server may have had the same port.
HEADWATER_HOME=$(mktemp -d) || exit
export HEADWATER_HOME
"$@"
status=$?
rm -rf "$HEADWATER_HOME"
exit $status
