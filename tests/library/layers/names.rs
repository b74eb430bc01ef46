//! Every path that a source file names, read from its tokens: `use` trees, expressions, types, patterns, attributes
//! and the arguments and bodies of macros all look the same there. Comments and string literals name nothing.

use std::collections::BTreeMap;

use proc_macro2::{Delimiter, Ident, Span, TokenStream, TokenTree};
use syn::ext::IdentExt;

/// A module's path from the crate's root.
pub(crate) type Path = Vec<String>;

/// One path as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) line: usize,
    /// The module where the path stands.
    pub(crate) module: Path,
    /// `crate`, `self` and `super` are segments like others; a path that starts with `::` has an empty one first.
    pub(crate) segments: Path,
    /// The path ends with `::*`.
    pub(crate) glob: bool,
    /// The path is a branch of a `use`.
    pub(crate) import: bool,
    /// The path ends with `!`.
    pub(crate) call: bool,
}

/// What a `use` makes of a name.
#[derive(Clone, Debug)]
pub(crate) struct Import {
    pub(crate) path: Named,
    /// The module's users see the name too.
    pub(crate) public: bool,
}

/// What a source file names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) paths: Vec<Named>,
    /// By module and name; a glob import has the name `*`.
    pub(crate) imports: BTreeMap<(Path, String), Vec<Import>>,
    /// Forms that would hide a path from this test, with their lines.
    pub(crate) refused: Vec<(usize, &'static str)>,
    /// Every word of the code, with its line.
    pub(crate) words: Vec<(usize, String)>,
}

impl Names {
    /// Adds what `tokens` of `module` name.
    pub(crate) fn read(&mut self, module: &[String], tokens: TokenStream) {
        Reader { names: self, module, line: 0 }.tokens(&tokens.into_iter().collect::<Vec<_>>());
    }
}

/// Words that are never part of a path, so that a path may start after them.
const KEYWORDS: &[&str] = &[
    "as", "async", "await", "break", "const", "continue", "dyn", "else", "enum", "extern", "fn", "for", "if", "impl",
    "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "static", "struct", "trait", "type",
    "unsafe", "use", "where", "while", "yield",
];

const INCLUDE: &str = "`include!` takes code from a file that is not read here";

struct Reader<'a> {
    names: &'a mut Names,
    module: &'a [String],
    /// Where tokens come from that have no place of their own: the literal of an attribute.
    line: usize,
}

fn word(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.unraw().to_string()),
        _ => None,
    }
}

fn is(token: Option<&TokenTree>, symbol: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == symbol)
}

fn colons(tokens: &[TokenTree], at: usize) -> bool {
    is(tokens.get(at), ':') && is(tokens.get(at + 1), ':')
}

fn group(token: Option<&TokenTree>, delimiter: Delimiter) -> Option<Vec<TokenTree>> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group.stream().into_iter().collect()),
        _ => None,
    }
}

impl Reader<'_> {
    fn line(&self, span: Span) -> usize {
        if self.line == 0 { span.start().line } else { self.line }
    }

    fn refuse(&mut self, span: Span, form: &'static str) {
        let line = self.line(span);
        self.names.refused.push((line, form));
    }

    fn tokens(&mut self, tokens: &[TokenTree]) {
        let mut at = 0;
        while at < tokens.len() {
            let before = at.checked_sub(1).and_then(|before| tokens.get(before));
            at = match &tokens[at] {
                TokenTree::Ident(ident) => self.ident(ident, before, tokens, at),
                TokenTree::Punct(punct) if punct.as_char() == '#' => self.attribute(tokens, at),
                TokenTree::Punct(_) if colons(tokens, at) && word(tokens.get(at + 2)).is_some() => {
                    // A type's item follows `<…>`; elsewhere `::` stands before a crate's name.
                    let arrow = at.checked_sub(2).and_then(|before| tokens.get(before));
                    let arrow = is(arrow, '-') || is(arrow, '=');
                    if is(before, '>') && !arrow { at + 2 } else { self.path(tokens, at) }
                }
                TokenTree::Group(group) => {
                    self.tokens(&group.stream().into_iter().collect::<Vec<_>>());
                    at + 1
                }
                _ => at + 1,
            };
        }
    }

    /// An identifier and what belongs to it; returns where the next token is.
    fn ident(&mut self, ident: &Ident, before: Option<&TokenTree>, tokens: &[TokenTree], at: usize) -> usize {
        let name = ident.to_string();
        match name.as_str() {
            "use" if !is(tokens.get(at + 1), '<') => {
                let end = (at..tokens.len()).find(|&end| is(tokens.get(end), ';')).unwrap_or(tokens.len());
                let scoped = matches!(before, Some(TokenTree::Group(_)));
                let visible = at.checked_sub(1 + usize::from(scoped)).and_then(|at| word(tokens.get(at)));
                self.tree(&[], &tokens[at + 1..end], visible.as_deref() == Some("pub"));
                return end + 1;
            }
            "extern" if word(tokens.get(at + 1)).as_deref() == Some("crate") => {
                self.refuse(ident.span(), "`extern crate` gives a crate another name");
                return at + 2;
            }
            "mod" => {
                if let (Some(name), Some(body)) =
                    (word(tokens.get(at + 1)), group(tokens.get(at + 2), Delimiter::Brace))
                {
                    let module = [self.module, &[name]].concat();
                    Reader { names: self.names, module: &module, line: self.line }.tokens(&body);
                    return at + 3;
                }
            }
            // `pub(crate)`, `pub(super)`, `pub(in crate::coordinator)` give rights and take none.
            "pub"
                if group(tokens.get(at + 1), Delimiter::Parenthesis).is_some_and(|scope| {
                    matches!(word(scope.first()).as_deref(), Some("crate" | "super" | "self" | "in"))
                }) =>
            {
                return at + 2;
            }
            _ => {}
        }
        if KEYWORDS.contains(&name.as_str()) {
            let line = self.line(ident.span());
            self.names.words.push((line, name));
            return at + 1;
        }
        self.path(tokens, at)
    }

    /// Attributes have paths too, even in their string literals (those of serde).
    fn attribute(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let inner = at + 1 + usize::from(is(tokens.get(at + 1), '!'));
        let Some(content) = group(tokens.get(inner), Delimiter::Bracket) else { return at + 1 };
        if word(content.first()).as_deref() != Some("doc") {
            self.attribute_content(&content);
        }
        inner + 1
    }

    fn attribute_content(&mut self, tokens: &[TokenTree]) {
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Ident(ident) if ident == "path" && is(tokens.get(at + 1), '=') => {
                    self.refuse(ident.span(), "`#[path]` makes a module of a file from elsewhere");
                }
                TokenTree::Ident(ident) if ident == "macro_use" || ident == "macro_export" => {
                    self.refuse(ident.span(), "a macro is called without its module's name");
                }
                TokenTree::Literal(literal) => {
                    if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string())
                        && let Ok(code) = text.value().parse::<TokenStream>()
                    {
                        let (line, module) = (self.line(literal.span()), self.module);
                        Reader { names: self.names, module, line }.tokens(&code.into_iter().collect::<Vec<_>>());
                    }
                }
                TokenTree::Group(group) => self.attribute_content(&group.stream().into_iter().collect::<Vec<_>>()),
                _ => {}
            }
        }
        self.tokens(tokens);
    }

    /// A path that starts at `at`; returns where it ends.
    fn path(&mut self, tokens: &[TokenTree], mut at: usize) -> usize {
        let span = tokens[at].span();
        let mut segments = Path::new();
        if colons(tokens, at) {
            segments.push(String::new());
            at += 2;
        }
        while let Some(name) = word(tokens.get(at)) {
            let line = self.line(tokens[at].span());
            self.names.words.push((line, name.clone()));
            segments.push(name);
            at += 1;
            if !colons(tokens, at) {
                break;
            }
            if group(tokens.get(at + 2), Delimiter::Brace).is_some() || is(tokens.get(at + 2), '*') {
                // A `use` in the argument of a macro.
                self.tree(&segments, &tokens[at..at + 3], false);
                return at + 3;
            }
            if is(tokens.get(at + 2), '$') && matches!(segments[0].as_str(), "crate" | "super" | "self" | "gwm") {
                self.refuse(span, "a macro's argument completes a path");
            }
            if word(tokens.get(at + 2)).is_none() {
                break; // generic arguments
            }
            at += 2;
        }
        let call = is(tokens.get(at), '!') && !is(tokens.get(at + 1), '=');
        let (line, module) = (self.line(span), self.module.to_vec());
        if call && segments.last().is_some_and(|name| name == "include") {
            self.refuse(span, INCLUDE);
        }
        // One name by itself is a local one or an imported one, whose `use` counts.
        let alone = segments.len() == 1 && !call && !matches!(segments[0].as_str(), "crate" | "super");
        if !alone {
            self.names.paths.push(Named { line, module, segments, glob: false, import: false, call });
        }
        at
    }

    /// One or several branches of a `use` below `prefix`.
    fn tree(&mut self, prefix: &[String], tokens: &[TokenTree], public: bool) {
        for branch in tokens.split(|token| is(Some(token), ',')).filter(|branch| !branch.is_empty()) {
            self.branch(prefix, branch, public);
        }
    }

    fn branch(&mut self, prefix: &[String], tokens: &[TokenTree], public: bool) {
        let span = tokens[0].span();
        let (mut segments, mut at) = (prefix.to_vec(), 0);
        loop {
            if colons(tokens, at) {
                if segments.is_empty() {
                    segments.push(String::new());
                }
                at += 2;
            }
            match tokens.get(at) {
                Some(TokenTree::Ident(ident)) if ident != "as" => {
                    let (name, line) = (ident.unraw().to_string(), self.line(ident.span()));
                    self.names.words.push((line, name.clone()));
                    segments.push(name);
                    at += 1;
                }
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    self.tree(&segments, &group.stream().into_iter().collect::<Vec<_>>(), public);
                    return;
                }
                Some(TokenTree::Punct(punct)) if punct.as_char() == '*' => {
                    self.import(span, "*".into(), segments, public);
                    return;
                }
                // A macro's variable or the `$` of `$crate`.
                Some(TokenTree::Punct(punct)) if punct.as_char() == '$' => {
                    if word(tokens.get(at + 1)).as_deref() != Some("crate") {
                        self.refuse(span, "a macro's argument completes a path");
                        return;
                    }
                    at += 1;
                }
                _ => break,
            }
        }
        // `{self}` names the module of its prefix.
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        let alias = (word(tokens.get(at)).as_deref() == Some("as")).then(|| word(tokens.get(at + 1))).flatten();
        if let Some(name) = alias.or_else(|| segments.last().cloned()) {
            self.import(span, name, segments, public);
        }
    }

    fn import(&mut self, span: Span, name: String, segments: Path, public: bool) {
        if segments.last().is_some_and(|name| name == "include") {
            self.refuse(span, INCLUDE);
        }
        let (line, module) = (self.line(span), self.module.to_vec());
        let path = Named { line, module, segments, glob: name == "*", import: true, call: false };
        self.names.paths.push(path.clone());
        self.names.imports.entry((self.module.to_vec(), name)).or_default().push(Import { path, public });
    }
}
