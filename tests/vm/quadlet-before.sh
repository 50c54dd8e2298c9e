# Quadlet files as services of a real systemd: ready, logged, restarted, sockets, pods, YAML. The second half, after a reboot,
# is quadlet-after.sh.
coracle import -q image.tar localhost/busybox >/dev/null
files=$HOME/.config/containers/systemd
mkdir -p "$files" "$HOME/www"
echo hello >"$HOME/www/index.html"
cat >"$files/web.container" <<'EOF'
[Unit]
Description=A web server
[Container]
Image=localhost/busybox
ContainerName=web
Volume=data.volume:/data
Volume=%h/www:/www:ro
Network=net.network
PublishPort=8080:80
Environment="WORDS=two words"
Exec=sh -c "echo serving $$WORDS; sleep 2; exec httpd -f -p 80 -h /www"
Notify=healthy
HealthCmd=wget -q -O /dev/null http://127.0.0.1:80/
HealthInterval=1s
HealthRetries=100
[Service]
Restart=always
TimeoutStartSec=300
[Install]
WantedBy=default.target
EOF
printf '[Volume]\nLabel=a=b\n' >"$files/data.volume"
printf '[Network]\nSubnet=10.77.0.0/24\n' >"$files/net.network"
printf '[Pod]\nPublishPort=8082:80\n' >"$files/p.pod"
printf '[Container]\nImage=localhost/busybox\nPod=p.pod\nVolume=%%h/www:/www:ro\nExec=httpd -f -p 80 -h /www\n' >"$files/member.container"
cat >"$files/held.container" <<'EOF'
[Container]
Image=localhost/busybox
PublishPort=8081:80
Volume=%h/www:/www:ro
Exec=httpd -f -p 80 -h /www
EOF
mkdir -p "$HOME/.config/systemd/user"
printf '[Socket]\nListenStream=127.0.0.1:8081\n' >"$HOME/.config/systemd/user/held.socket"
printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: yaml}\nspec:\n  containers:\n  - {name: c, image: localhost/busybox, command: [sleep, "1000"]}\n' >"$files/k.yaml"
printf '[Kube]\nYaml=k.yaml\n' >"$files/k.kube"
check "quadlet enable" coracle quadlet enable
units="$XDG_RUNTIME_DIR/systemd/user"
is "systemd-analyze verify has nothing to say" "$(systemd-analyze --user verify "$units"/*.service 2>&1)" ""
get() { busybox wget -q -T 60 -O - "http://127.0.0.1:$1/" 2>/dev/null; }
main() { systemctl --user show -p MainPID --value "$1"; }
check "start" systemctl --user start web
is "it answers when systemctl returns" "$(get 8080)" hello
is "its main process is the supervisor" "$(main web)" "$(coracle inspect -f '{{.State.ConmonPid}}' web)"
check "the supervisor is in the unit" grep -q /web.service "/proc/$(main web)/cgroup"
check "so is the container" grep -q /web.service "/proc/$(coracle inspect -f '{{.State.Pid}}' web)/cgroup"
is "what it needs is there" "$(coracle volume inspect -f '{{.Labels.a}}' systemd-data) $(coracle network inspect -f '{{(index .Subnets 0).Subnet}}' systemd-net)" "b 10.77.0.0/24"
logged() { journalctl -q -o cat --user-unit web | grep -q "serving two words"; }
check "the journal has what it says" eventually logged
before=$(main web)
kill -9 "$before"
again() { [ "$(main web)" != "$before" ] && [ "$(systemctl --user is-active web)" = active ]; }
check "Restart= brings it back after kill -9 of its supervisor" eventually again
is "and it answers" "$(get 8080)" hello
check "start a pod" systemctl --user start p-pod
member() { [ "$(get 8082)" = hello ]; }
check "its container comes with it" eventually member
is "the pod's service runs" "$(systemctl --user is-active p-pod member | tr '\n' ' ')" "active active "
check "stop the pod" systemctl --user stop p-pod
is "its container went with it" "$(coracle ps -a --format '{{.Names}}' | grep -c member)" 0
check "start YAML" systemctl --user start k
is "its pod runs" "$(coracle inspect -f '{{.State.Status}}' yaml-c)" running
check "stop YAML" systemctl --user stop k
is "its pod is gone" "$(coracle pod ps -q)" ""
systemctl --user start held.socket
is "a socket of systemd is served" "$(get 8081)" hello
is "by the service it started" "$(systemctl --user is-active held)" active
systemctl --user stop held.socket held
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
systemctl --user stop up
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
check "reload after a change" sh -c "rm '$files/k.kube' && coracle quadlet reload"
is "what is gone is forgotten" "$(systemctl --user cat k 2>&1 | grep -c ExecStart)" 0
[ $failures = 0 ] || journalctl -q --no-pager -n 80 --user-unit web --user-unit held --user-unit up --user-unit gen
finish
