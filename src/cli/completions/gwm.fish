# Completion of gwm for fish: `gwm completions fish` printed this.
function __gwm_candidates
    set --local words (commandline --current-process --tokenize --cut-at-cursor)
    set --local word (commandline --current-token --cut-at-cursor)
    # A word with an open quote stays as it is.
    set --local plain (string unescape -- "$word"; or echo -- "$word")
    $words[1] completions fish -- $words "$plain" 2> /dev/null
end
complete --command gwm --no-files --keep-order --arguments '(__gwm_candidates)'
