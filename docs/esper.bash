# Completion of the esper command for bash.
_esper() {
  local cur=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} words
  if [ "$COMP_CWORD" = 1 ]; then
    words=$(esper help 2>/dev/null | awk '/^  [a-z]/ {print $1}')
  elif [[ $cur == -* ]]; then
    words=$(esper "$command" --help 2>/dev/null | awk '$1 ~ /^--/ {print $1}')
  elif [ "$command" = store ] && [ "$COMP_CWORD" = 2 ]; then
    words="ls show why verify gc export import rm"
  else
    COMPREPLY=($(compgen -f -- "$cur"))
    return
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _esper esper
