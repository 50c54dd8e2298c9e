# auto-update with a real systemd.
coracle import -q image.tar localhost/busybox >/dev/null
files=$HOME/.config/containers/systemd
mkdir -p "$files" "$HOME/.config/systemd/user"
main() { systemctl --user show -p MainPID --value "$1"; }
coracle quadlet enable
# A newer image, and a broken one: what tells that it is ready, and what never does.
cat >"$files/up.container" <<'EOF'
[Container]
Image=localhost/up
ContainerName=up
AutoUpdate=local
Notify=healthy
HealthCmd=test -e /good
HealthInterval=1s
HealthRetries=1000
Exec=sleep 100000
[Service]
TimeoutStartSec=60
EOF
image() { # NAME WORD...: an image of busybox with empty files
    coracle rm -f new >/dev/null 2>&1
    coracle run --name new localhost/busybox touch "$@"
    coracle commit -q new localhost/up >/dev/null
}
image /good /one
coracle quadlet reload
check "start what is updated" systemctl --user start up
is "nothing is newer" "$(coracle auto-update --format '{{.Updated}}')" false
image /good /two
is "a newer image is seen" "$(coracle auto-update --dry-run --format '{{.Unit}} {{.Updated}}')" "up.service pending"
is "and swapped in" "$(coracle auto-update --format '{{.Unit}} {{.Updated}}')" "up.service true"
check "it is the new one" coracle exec up test -e /two
image /bad
is "a broken one is rolled back" "$(coracle auto-update --format '{{.Unit}} {{.Updated}}' 2>updated)" "up.service rolled back"
check "with a word about it" grep -q "restart up.service" updated
check "the one before runs" coracle exec up test -e /two
# Every night, by a timer.
mkdir -p "$HOME/.local/bin"
ln -sf "$(command -v coracle)" "$HOME/.local/bin/coracle"
cp coracle-auto-update.service coracle-auto-update.timer "$HOME/.config/systemd/user"
systemctl --user daemon-reload
is "systemd-analyze is content with the units" "$(systemd-analyze --user --man=no verify "$HOME"/.config/systemd/user/coracle-*.* 2>&1)" ""
check "the timer is set" systemctl --user start coracle-auto-update.timer
check "for the next night" sh -c 'systemctl --user list-timers --no-legend | grep -q coracle-auto-update.service'
image /good /three
check "what it starts" systemctl --user start coracle-auto-update.service
check "updates" coracle exec up test -e /three
systemctl --user stop up
[ $failures = 0 ] || journalctl -q --no-pager -n 80 --user-unit up
finish
