# fish completion for picloud(1)

set -l commands pub sub info open discover doctor key bench version help
set -l none "not __fish_seen_subcommand_from $commands"
complete -c picloud -f
complete -c picloud -n $none -a pub -d 'Publish'
complete -c picloud -n $none -a sub -d 'Print what is published'
complete -c picloud -n $none -a info -d 'Show who is connected'
complete -c picloud -n $none -a open -d 'Print the link that opens the dashboard'
complete -c picloud -n $none -a discover -d 'Find the servers of the network'
complete -c picloud -n $none -a doctor -d 'Look what is wrong'
complete -c picloud -n $none -a key -d 'Show or renew the key of the service'
complete -c picloud -n $none -a bench -d 'Measure the server'
complete -c picloud -n $none -a version -d 'Print the version'
complete -c picloud -n $none -a help -d 'Say more about a command'
complete -c picloud -n '__fish_seen_subcommand_from help' -a 'pub sub info open discover doctor key bench version'
complete -c picloud -n '__fish_seen_subcommand_from key; and not __fish_seen_subcommand_from show new' -a 'show new'
complete -c picloud -n '__fish_seen_subcommand_from bench' -a 'memory connect fanout pairs latency'

complete -c picloud -n "$none; or __fish_seen_subcommand_from pub sub info open doctor bench" -l url -x \
	-a 'http:// https:// unix:/run/picloud/picloud.sock' -d 'The server'
complete -c picloud -n "$none; or __fish_seen_subcommand_from pub sub info open doctor bench" -l key -x -d 'Its key'
complete -c picloud -n "$none; or __fish_seen_subcommand_from pub sub info" -l name -x -d 'How this client is called'
complete -c picloud -l help -d 'Say how to use it'
complete -c picloud -n $none -l version -d 'Print the version'
complete -c picloud -n '__fish_seen_subcommand_from pub sub info discover bench' -l json -d 'The data, or the output, is JSON'
complete -c picloud -n '__fish_seen_subcommand_from info' -l watch -d 'Look again and again'
complete -c picloud -n '__fish_seen_subcommand_from sub' -s n -x -d 'End after so many messages'
complete -c picloud -n '__fish_seen_subcommand_from bench' -l subscribers -x -d 'How many'
complete -c picloud -n '__fish_seen_subcommand_from bench' -l size -x -d 'Bytes of data in each message'
complete -c picloud -n '__fish_seen_subcommand_from bench' -l window -x -d 'Messages on their way at a time'
complete -c picloud -n '__fish_seen_subcommand_from bench' -l rate -x -d 'Messages a second'
complete -c picloud -n '__fish_seen_subcommand_from bench' -l duration -x -d 'Of each scenario'
complete -c picloud -n '__fish_seen_subcommand_from bench' -l messages -x -d 'So many instead'
