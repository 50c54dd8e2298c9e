# generate systemd with a real systemd.
coracle import -q image.tar localhost/busybox >/dev/null
mkdir -p "$HOME/.config/systemd/user"
main() { systemctl --user show -p MainPID --value "$1"; }
# generate systemd
coracle create --name gen -e "A=two words" localhost/busybox sleep 1000 >/dev/null
coracle generate systemd --new --name gen >"$HOME/.config/systemd/user/gen.service"
is "systemd-analyze is content with it" "$(systemd-analyze --user --man=no verify "$HOME/.config/systemd/user/gen.service" 2>&1)" ""
coracle rm gen >/dev/null
systemctl --user daemon-reload
check "a generated unit starts" systemctl --user start gen
is "its container" "$(coracle exec gen sh -c 'echo $A')" "two words"
check "and stops" systemctl --user stop gen
is "without a trace" "$(coracle ps -a --format '{{.Names}}' | grep -c gen)" 0
coracle create --name old localhost/busybox sleep 1000 >/dev/null
coracle generate systemd --name -t 1 old >"$HOME/.config/systemd/user/old.service"
systemctl --user daemon-reload
check "a unit of an existing container starts" systemctl --user start old
is "with its supervisor as main process" "$(main old)" "$(coracle inspect -f '{{.State.ConmonPid}}' old)"
check "and stops" systemctl --user stop old
[ $failures = 0 ] || journalctl -q --no-pager -n 80 --user-unit gen --user-unit old
finish
