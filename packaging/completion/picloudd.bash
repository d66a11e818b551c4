# bash completion for picloudd(8)

_picloudd() {
	local cur prev words cword
	_init_completion || return

	case $prev in
	-make-key | --make-key)
		_filedir
		return
		;;
	esac
	((cword > 1)) || mapfile -t COMPREPLY < <(compgen -W '-check -help -make-key -reload -version' -- "$cur")
} &&
	complete -F _picloudd picloudd
