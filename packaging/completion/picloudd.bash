# bash completion for picloudd(8)

_picloudd() {
	local cur prev words cword
	_init_completion || return

	case $prev in
	-make-key | --make-key)
		_filedir
		return
		;;
	-led-test | --led-test)
		mapfile -t COMPREPLY < <(compgen -W "$(printf 'gpio%d ' {2..27}; cd /sys/class/leds 2>/dev/null && printf 'led:%s ' *)" -- "$cur")
		__ltrim_colon_completions "$cur"
		return
		;;
	esac
	((cword > 1)) || mapfile -t COMPREPLY < <(compgen -W '-check -follow-port -help -led-off -led-test -make-cert -make-key -reload -take-over -version' -- "$cur")
} &&
	complete -F _picloudd picloudd
