# The same Quadlet files under podman, and then under coracle: the same services. In a VM that has podman.
files=$HOME/.config/containers/systemd
mkdir -p "$files/web.container.d" "$HOME/www" "$HOME/build"
echo hello >"$HOME/www/index.html"
cat >"$files/web.container" <<'U'
[Unit]
Description=A web server
[Container]
Image=localhost/nginx
ContainerName=web
Volume=data.volume:/data
Volume=%h/www:/var/www/html:ro
PublishPort=8080:80
Environment="WORDS=two words"
Exec=sh -c "echo serving $$WORDS $$MORE; exec nginx -g 'daemon off;'"
[Service]
Restart=always
TimeoutStartSec=280
U
printf '[Container]\nEnvironment=MORE=dropped\n' >"$files/web.container.d/10.conf"
printf '[Volume]\nLabel=a=b\n' >"$files/data.volume"
printf '[Container]\nImage=localhost/busybox\nNetwork=none\nExec=sleep 1000\n[Service]\nTimeoutStartSec=280\n' >"$files/t@.container"
printf '[Pod]\nPublishPort=8082:80\n[Service]\nTimeoutStartSec=280\n' >"$files/p.pod"
printf '[Container]\nImage=localhost/nginx\nPod=p.pod\nVolume=%%h/www:/var/www/html:ro\nExec=nginx -g "daemon off;"\n[Service]\nTimeoutStartSec=280\n' >"$files/member.container"
printf '[Container]\nImage=localhost/busybox\nNetwork=none\nExec=sh -c "exit 3"\n' >"$files/fails.container"
printf '[Build]\nImageTag=localhost/built\nSetWorkingDirectory=%%h/build\n[Service]\nTimeoutStartSec=280\n' >"$files/b.build"
printf 'FROM localhost/busybox\nCOPY word /word\n' >"$HOME/build/Containerfile"
echo built >"$HOME/build/word"
printf '[Container]\nImage=b.build\nNetwork=none\nExec=sh -c "cat /word; sleep 1000"\n[Service]\nTimeoutStartSec=280\n' >"$files/ofbuild.container"
printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: yaml}\nspec:\n  containers:\n  - {name: c, image: localhost/busybox, command: [sleep, "1000"]}\n' >"$files/k.yaml"
printf '[Kube]\nYaml=k.yaml\n[Service]\nTimeoutStartSec=280\n' >"$files/k.kube"

get() { curl -s -m 100 "http://127.0.0.1:$1/"; }
answers() { [ "$(get "$1")" = hello ]; }
main() { systemctl --user show -p MainPID --value "$1"; }
shown() { systemctl --user show -p "$2" "$1" | sort | tr '\n' ' '; }
start() { systemctl --user start "$1"; echo "start $1: $? $(systemctl --user is-active "$1")"; }
stop() { systemctl --user stop "$1"; echo "stop $1: $? $(systemctl --user is-active "$1") $(shown "$1" Result)"; }
says() { journalctl -q -o cat --user-unit "$1" --since "$since" | grep -qx "$2"; }
again() { local pid; pid=$(main web); [ "$pid" != "$1" ] && [ "$pid" != 0 ] && [ "$(systemctl --user is-active web)" = active ]; }
services() { # PROGRAM: what is seen of them
    local since before
    since=$(date '+%F %T')
    systemctl --user daemon-reload
    for unit in web data-volume t@ p-pod member fails b-build ofbuild k; do
        echo "$unit: $(shown $unit Type,KillMode,NotifyAccess,RemainAfterExit,Restart,Description)"
    done
    start web
    eventually answers 8080 && echo "web answers"
    eventually says web "serving two words dropped" && echo "web logs"
    echo "volume $($1 volume inspect -f '{{.Labels.a}}' systemd-data)"
    before=$(main web)
    [ "$before" -gt 0 ] && kill -9 "$before"
    eventually again "$before" && echo "web is there again"
    eventually answers 8080 && echo "web answers again"
    stop web
    start t@one
    echo "named $($1 ps --format '{{.Names}}')"
    stop t@one
    start p-pod
    eventually answers 8082 && echo "the pod answers"
    echo "member $(systemctl --user is-active member)"
    stop p-pod
    echo "member $(systemctl --user is-active member)"
    systemctl --user start fails
    eventually sh -c '[ "$(systemctl --user is-active fails)" = failed ]' && echo "fails: $(shown fails Result,ExecMainStatus)"
    systemctl --user reset-failed fails
    start ofbuild
    eventually says ofbuild built && echo "ofbuild has what was built"
    stop ofbuild
    start k
    echo "of yaml $($1 ps --format '{{.Names}} {{.Status}}' | grep -c 'yaml-c Up')"
    stop k
    echo "left $($1 ps -aq | wc -l) $($1 pod ps -q | wc -l)"
}
podman import -q -c 'CMD ["sh"]' image.tar localhost/busybox >/dev/null 2>&1
podman import -q nginx.tar localhost/nginx >/dev/null 2>&1
services podman 2>podman.err | tee podman.out
head -n 20 podman.err
sudo install -D -m 755 podman-user-generator /etc/systemd/user-generators/podman-user-generator
coracle import -q -c 'CMD ["sh"]' image.tar localhost/busybox >/dev/null
coracle import -q nginx.tar localhost/nginx >/dev/null
services coracle 2>coracle.err | tee coracle.out
check "its generator is in the place of podman's" sh -c 'systemctl --user cat web | grep -q "ExecStart=.*coracle"'
echo "-- podman against coracle:"
diff podman.out coracle.out && echo "no difference"
is "podman and coracle give the same services" "$(diff podman.out coracle.out)" ""
[ $failures = 0 ] || { tail -n 5 podman.err coracle.err; journalctl -q --no-pager -n 100 --user; }
finish
