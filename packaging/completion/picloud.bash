# bash completion for picloud(1)

_picloud() {
	local cur prev words cword
	_init_completion -n : || return

	case $prev in
	-url | --url)
		mapfile -t COMPREPLY < <(compgen -W 'http:// https:// unix:/run/picloud/picloud.sock' -- "$cur")
		compopt -o nospace
		__ltrim_colon_completions "$cur"
		return
		;;
	-key | --key | -name | --name | -n | --subscribers | --size | --window | --rate | --duration | --messages)
		return
		;;
	esac

	# The first word that is neither a flag nor a flag's value is the command.
	local command='' i
	for ((i = 1; i < cword; i++)); do
		case ${words[i]} in
		-url | --url | -key | --key | -name | --name | -n) ((i++)) ;;
		--subscribers | --size | --window | --rate | --duration | --messages) ((i++)) ;;
		-*) ;;
		*)
			command=${words[i]}
			break
			;;
		esac
	done

	local flags='--url --key --name --help'
	case $command in
	'') flags+=' --version' ;;
	pub) flags+=' --json' ;;
	info) flags+=' --json --watch' ;;
	sub) flags+=' --json -n' ;;
	key | version | help) flags=--help ;;
	discover) flags='--help --json' ;;
	open | doctor) flags='--url --key --help' ;;
	bench) flags='--url --key --help --json --subscribers --size --window --rate --duration --messages' ;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
		return
	fi
	case $command in
	'') mapfile -t COMPREPLY < <(compgen -W 'pub sub info open discover doctor key bench version help' -- "$cur") ;;
	bench) mapfile -t COMPREPLY < <(compgen -W 'memory connect fanout pairs latency' -- "$cur") ;;
	key) mapfile -t COMPREPLY < <(compgen -W 'show new' -- "$cur") ;;
	help) mapfile -t COMPREPLY < <(compgen -W 'pub sub info open discover doctor key bench version' -- "$cur") ;;
	esac
} &&
	complete -F _picloud picloud
