#compdef gwm
# Completion of gwm for zsh: `gwm completions zsh` printed this.
_gwm() {
    local line value
    local -a open whole
    for line in ${(f)"$(${(Q)words[1]} completions zsh -- "${(@Q)words[1,CURRENT]}" 2> /dev/null)"}; do
        value=${line%%$'\t'*}
        line="${${value//\\/\\\\}//:/\\:}:${line#*$'\t'}"
        [[ $value == *[=/] ]] && open+=("$line") || whole+=("$line")
    done
    (( $#whole )) && _describe -V gwm whole
    (( $#open )) && _describe -V gwm open -S ''
}
# As a file of $fpath it runs at the first use; `source` only registers it.
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _gwm "$@"; else compdef _gwm gwm; fi
