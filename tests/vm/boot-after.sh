# After the reboot: no login has started anything.
up() { [ "$(coracle ps --format '{{.Names}}' | sort | tr '\n' ' ')" = "always unless " ]; }
check "what was to run runs" eventually up
coracle ps -a --format '{{.Names}} {{.Status}}'
is "what a user stopped stays stopped" "$(coracle inspect -f '{{.State.Status}}' stopped)" exited
is "the unit is content" "$(systemctl --user is-active coracle-boot.service)" active
supervisor=$(coracle inspect -f '{{.State.ConmonPid}}' always)
check "the supervisor is in the unit" grep -q coracle-boot.service /proc/$supervisor/cgroup
before=$SECONDS
systemctl --user stop coracle-boot.service
is "the end of the unit ends them" "$(coracle ps -q)" ""
is "in order" "$(coracle inspect -f '{{.State.ExitCode}}' always)" 143
check "at once" test $((SECONDS - before)) -lt 60
systemctl --user start coracle-boot.service
check "its start starts them" up
check "boot disable" coracle boot disable
is "systemd has forgotten it" "$(systemctl --user is-enabled coracle-boot.service 2>&1)" not-found
check "and what runs goes on" up
finish
