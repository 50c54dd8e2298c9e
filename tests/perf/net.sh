#!/bin/bash
# What the ways out of a container's network cost, side by side and in turns: loopback, pasta, slirp4netns, ours.
# Prints a table of medians; pasta and slirp4netns are left out if they are not installed. A minute and a half, on a quiet
# machine; as an ordinary user.
set -eu
cd "$(dirname "$0")/../.."
NET_TESTS_COST=1 cargo test --release -p coracle-net --test net -- cost_of_ways_out --nocapture
