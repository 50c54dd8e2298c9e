# Quadlet files as services of a real systemd: ready, logged, restarted, sockets, pods, YAML. The second half, after a reboot,
# is quadlet-after.sh.
coracle import -q image.tar localhost/busybox >/dev/null
coracle import -q nginx.tar localhost/nginx >/dev/null
files=$HOME/.config/containers/systemd
mkdir -p "$files" "$HOME/www"
echo hello >"$HOME/www/index.html"
cat >"$files/web.container" <<'EOF'
[Unit]
Description=A web server
[Container]
Image=localhost/nginx
ContainerName=web
Volume=data.volume:/data
Volume=%h/www:/var/www/html:ro
Network=net.network
PublishPort=8080:80
Environment="WORDS=two words"
Exec=sh -c "echo serving $$WORDS; sleep 2; exec nginx -g 'daemon off;'"
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
requested() { journalctl -q -o cat --user-unit web | grep -q 'GET / HTTP'; }
check "and what is asked of it" eventually requested
is "with podman's fields" "$(journalctl -q -o json --user-unit web | jq -r 'select(.CONTAINER_NAME == "web") | "\(.CONTAINER_ID | length) \(.CONTAINER_ID_FULL | length) \(.SYSLOG_IDENTIFIER) \(.PRIORITY)"' | sort -u | head -n 1)" "12 64 web 6"
is "its processes get the word and are killed together" "$(systemctl --user show -p KillMode,Type,NotifyAccess web | sort | tr '\n' ' ')" "KillMode=mixed NotifyAccess=all Type=notify "
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
check "reload after a change" sh -c "rm '$files/k.kube' && coracle quadlet reload"
is "what is gone is forgotten" "$(systemctl --user cat k 2>&1 | grep -c ExecStart)" 0
[ $failures = 0 ] || journalctl -q --no-pager -n 80 --user-unit web --user-unit held
finish
