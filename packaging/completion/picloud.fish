# fish completion for picloud(1)

set -l commands pub sub info version help
complete -c picloud -f
complete -c picloud -n "not __fish_seen_subcommand_from $commands" -a pub -d 'Publish'
complete -c picloud -n "not __fish_seen_subcommand_from $commands" -a sub -d 'Print what is published'
complete -c picloud -n "not __fish_seen_subcommand_from $commands" -a info -d 'Show who is connected'
complete -c picloud -n "not __fish_seen_subcommand_from $commands" -a version -d 'Print the version'
complete -c picloud -n "not __fish_seen_subcommand_from $commands" -a help -d 'Say more about a command'
complete -c picloud -n '__fish_seen_subcommand_from help' -a 'pub sub info version'
complete -c picloud -l url -x -a 'http:// https:// unix:/run/picloud/picloud.sock' -d 'The server'
complete -c picloud -l key -x -d 'Its key'
complete -c picloud -l name -x -d 'How this client is called'
complete -c picloud -l help -d 'Say how to use it'
complete -c picloud -n "not __fish_seen_subcommand_from $commands" -l version -d 'Print the version'
complete -c picloud -n '__fish_seen_subcommand_from pub sub info' -l json -d 'The data, or the output, is JSON'
complete -c picloud -n '__fish_seen_subcommand_from sub' -s n -x -d 'End after so many messages'
