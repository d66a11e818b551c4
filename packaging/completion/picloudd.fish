# fish completion for picloudd(8)

complete -c picloudd -f
complete -c picloudd -o check -d 'Say what a start would do'
complete -c picloudd -o follow-port -d 'Have systemd listen on PORT'
complete -c picloudd -o help -d 'Print options and settings'
complete -c picloudd -o led-off -d 'Turn the status LED off after a crash'
complete -c picloudd -o led-test -x -a '(printf "gpio%d\n" (seq 2 27); cd /sys/class/leds 2>/dev/null; and printf "led:%s\n" *)' -d 'Show every pattern on an LED'
complete -c picloudd -o make-cert -d 'Write a new key and certificate for TLS'
complete -c picloudd -o make-key -r -F -d 'Write a new key into a file'
complete -c picloudd -o reload -d 'Have the TLS files read again'
complete -c picloudd -o take-over -d "Have a new process take over from the service's"
complete -c picloudd -o version -d 'Print the version'
