# Completion of gwm for fish: `gwm completions fish` printed this.
function __gwm_candidates
    set --local words (commandline --current-process --tokenize --cut-at-cursor)
    $words[1] completions fish -- $words (commandline --current-token --cut-at-cursor) 2> /dev/null
end
complete --command gwm --no-files --keep-order --arguments '(__gwm_candidates)'
