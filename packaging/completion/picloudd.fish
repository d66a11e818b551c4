# fish completion for picloudd(8)

complete -c picloudd -f
complete -c picloudd -o check -d 'Say what a start would do'
complete -c picloudd -o help -d 'Print options and settings'
complete -c picloudd -o make-key -r -F -d 'Write a new key into a file'
complete -c picloudd -o reload -d 'Have the TLS files read again'
complete -c picloudd -o version -d 'Print the version'
