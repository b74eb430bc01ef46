//! Pages of commands: what `--help` says, with the hand-written text among it.

use clap::Command;
use clap_mangen::Man;

use super::{
    head,
    roff::{self, Part},
};

/// Commands for administrators, with all their subcommands: section 8. The others are for everyone.
const OF_ADMINISTRATORS: &[&str] = &["agent", "connect", "serve", "state"];

/// A command, as its page names it.
pub(super) struct Named {
    /// `gwm-connect-haproxy`.
    pub(super) name: String,
    pub(super) section: &'static str,
    pub(super) command: Command,
    /// The page of the command that this one belongs to.
    parent: Option<String>,
}

/// All commands, in the order of `--help`.
pub(super) fn all() -> Vec<Named> {
    let mut root = gwm::cli::command();
    root.build();
    let mut found = Vec::new();
    add(&root, None, "1", &mut found);
    found
}

fn add(command: &Command, parent: Option<&Named>, section: &'static str, found: &mut Vec<Named>) {
    let own = command.get_name();
    let name = parent.map_or_else(|| own.to_owned(), |parent| format!("{}-{own}", parent.name));
    let parent = parent.map(|parent| format!("{}({})", parent.name, parent.section));
    let named = Named { name, section, command: command.clone(), parent };
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let section = if OF_ADMINISTRATORS.contains(&sub.get_name()) { "8" } else { section };
        add(sub, Some(&named), section, found);
    }
    found.push(named);
}

impl Named {
    pub(super) fn page(&self, parts: Vec<Part>) -> String {
        // The sections of subcommands differ: the list of them is made here.
        let man = Man::new(self.command.clone().display_name(self.name.clone())).section(self.section);
        let mut roff = Vec::new();
        let mut parts = parts.into_iter().peekable();
        let write = |section: fn(&Man, &mut dyn std::io::Write) -> std::io::Result<()>, roff: &mut Vec<u8>| {
            section(&man, roff).expect("a Vec takes everything");
        };
        roff.extend(head(&self.name, self.section).into_bytes());
        write(Man::render_name_section, &mut roff);
        write(Man::render_synopsis_section, &mut roff);
        write(Man::render_description_section, &mut roff);
        if let Some(first) = parts.next_if(|part| part.heading.is_none()) {
            roff.extend(first.roff.into_bytes());
        }
        write(Man::render_options_section, &mut roff);
        roff.extend(self.commands().into_bytes());
        if self.command.get_after_help().or(self.command.get_after_long_help()).is_some() {
            let mut notes = Vec::new();
            write(Man::render_extra_section, &mut notes);
            let notes = String::from_utf8(notes).expect("clap_mangen writes text");
            roff.extend(notes.replace(".SH EXTRA", ".SH NOTES").into_bytes());
        }
        for part in parts {
            let heading = part.heading.expect("only the first part has none").to_uppercase();
            roff.extend(format!(".SH \"{heading}\"\n{}", part.roff).into_bytes());
        }
        let mut others: Vec<&str> = self.parent.as_deref().into_iter().collect();
        others.push("gwm(7)");
        let others: Vec<String> = others.into_iter().map(bold_name).collect();
        roff.extend(format!(".SH \"SEE ALSO\"\n{}\n", others.join(",\n")).into_bytes());
        String::from_utf8(roff).expect("clap_mangen writes text")
    }

    fn commands(&self) -> String {
        let mut subs =
            self.command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help").peekable();
        let mut list = String::new();
        if subs.peek().is_some() {
            list.push_str(".SH COMMANDS\n");
        }
        for sub in subs {
            let section = if OF_ADMINISTRATORS.contains(&sub.get_name()) { "8" } else { self.section };
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            let name = bold_name(&format!("{}-{}({section})", self.name, sub.get_name()));
            list.push_str(&format!(".TP\n{name}\n{}\n", roff::escape(&about, true)));
        }
        list
    }
}

/// `gwm(7)` as manuals write it.
fn bold_name(page: &str) -> String {
    let (name, section) = roff::reference(page).expect("a page has a section");
    format!("\\fB{}\\fR({section})", roff::escape(name, false))
}
