# What is to run after a reboot, and what is not. The second half is boot-after.sh.
coracle import -q image.tar localhost/busybox >/dev/null
check "boot enable" coracle boot enable
is "systemd knows it" "$(systemctl --user is-enabled coracle-boot.service)" enabled
for name in always=always unless=unless-stopped stopped=unless-stopped never=no failing=on-failure; do
    coracle run -d --init --name ${name%=*} --restart=${name#*=} busybox sleep 100000 >/dev/null
done
coracle create --name created --restart=always busybox sleep 100000 >/dev/null
coracle stop stopped >/dev/null
coracle boot status
is "lingering is seen" "$(coracle boot status | grep -c 'lingering: on')" 1
finish
