# Completion of gwm for bash 4.4 or newer: `gwm completions bash` printed this.
_gwm() {
    local line=${COMP_LINE:0:COMP_POINT} IFS=$' \t\n' current kept= one
    local -a words candidates
    # Readline breaks words at : and =, which are a part of addresses and flags. So the line is taken apart here.
    read -a words <<< "$line"
    [[ $line == *[[:space:]] && $line != *\\[[:space:]] ]] && words+=("")
    current=${words[${#words[@]} - 1]}
    # Readline puts a candidate in the place of what follows the last of its own breaks.
    [[ $COMP_WORDBREAKS == *:* && $current == *:* ]] && kept=${current%"${current##*:}"}
    [[ $COMP_WORDBREAKS == *=* && ${current#"$kept"} == *=* ]] && kept=${current%"${current##*=}"}
    mapfile -t candidates < <("$1" completions bash -- "${words[@]}" 2> /dev/null)
    COMPREPLY=()
    for one in "${candidates[@]}"; do
        one=${one%%$'\t'*}
        [[ $one == *[=/] ]] && compopt -o nospace
        one=${one#"$kept"}
        [[ $one == *[!A-Za-z0-9_./:=@%+,~-]* ]] && printf -v one %q "$one"
        COMPREPLY+=("$one")
    done
}
complete -o nosort -o bashdefault -F _gwm gwm
