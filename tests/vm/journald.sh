# --log-driver journald: podman's fields, and `logs` reads them back
coracle import -q image.tar localhost/busybox >/dev/null
coracle run -d --name c --log-driver journald --log-opt tag=mine busybox \
    sh -c 'echo one; echo two >&2; sleep 3; echo three; sleep 1000' >/dev/null
id=$(coracle inspect -f '{{.Id}}' c)
said() { [ "$(coracle logs c 2>&1 | grep -c three)" = 1 ]; }
check "logs reads the journal" eventually said
is "stdout comes on stdout" "$(coracle logs c 2>/dev/null)" "one
three"
is "stderr comes on stderr" "$(coracle logs c 2>&1 >/dev/null)" two
is "--tail" "$(coracle logs --tail 1 c)" three
is "--tail 0" "$(coracle logs --tail 0 c)" ""
is "--since what is yet to come" "$(coracle logs --since "$(date -d '+1 hour' +%s)" c 2>&1)" ""
is "--until the past" "$(coracle logs --until "$(date -d '-1 hour' +%s)" c 2>&1)" ""
entry=$(journalctl --user -o json CONTAINER_ID_FULL=$id 2>/dev/null | grep '"one"' || journalctl -o json CONTAINER_ID_FULL=$id | grep '"one"')
field() { printf '%s' "$entry" | jq -r ".$1"; }
is "podman's fields" "$(field CONTAINER_NAME) $(field CONTAINER_ID) $(field CONTAINER_TAG) $(field SYSLOG_IDENTIFIER) $(field PRIORITY)" \
    "c ${id%"${id#????????????}"} mine mine 6"
coracle logs -f --tail 0 c >followed 2>&1 &
follower=$!
coracle exec -d c sh -c 'echo four >/proc/1/fd/1'
followed() { grep -q four followed; }
check "--follow" eventually followed
coracle rm -f -t 0 c >/dev/null
check "--follow ends with the container" wait $follower
finish
