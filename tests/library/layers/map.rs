//! The table in a module's documentation: which of its modules may know which. Then whether the code keeps to the
//! table.

use std::collections::{BTreeMap, BTreeSet};

use super::house::{House, Target};

/// One module of the table.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) may_know: BTreeSet<String>,
    /// The row says "all" instead of names: no order holds among such modules.
    pub(crate) knows_all: bool,
    pub(crate) pure: bool,
}

/// The modules in their order, and what each may know.
pub(crate) struct Map {
    rows: Vec<(String, Row)>,
    /// What is wrong with the table itself.
    faults: Vec<String>,
}

/// The words between backticks.
fn names(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

fn starts_with(path: &[String], room: &[&str]) -> bool {
    path.len() >= room.len() && path.iter().zip(room).all(|(path, room)| path == room)
}

/// Which part of `room` a path leads to: one of its modules, or the room's own file.
fn part<'a>(house: &House, path: &'a [String], room: &[&'a str]) -> &'a str {
    match (path.get(room.len()), room.last()) {
        (Some(_), Some(own)) if !house.modules.contains(&path[..=room.len()]) => own,
        (Some(name), _) => name,
        (None, own) => own.copied().unwrap_or_default(),
    }
}

impl Map {
    /// The table of `module` (the crate's root is an empty path).
    pub(crate) fn of(house: &House, module: &[&str]) -> Map {
        let source = house.sources.iter().find(|source| source.module == module).expect("a module with a table");
        let mut map = Map { rows: Vec::new(), faults: Vec::new() };
        let mut lines = source.documentation.iter().skip_while(|line| !line.contains("| may know |"));
        let Some(head) = lines.next().map(|line| cells(line)) else {
            map.faults.push(format!("src/{} has no table with a column \"may know\"", source.file));
            return map;
        };
        for line in lines.skip(1).take_while(|line| line.starts_with('|')) {
            let cell: BTreeMap<&str, &str> = head.iter().copied().zip(cells(line)).collect();
            let row = Row {
                may_know: names(cell["may know"]).collect(),
                knows_all: cell["may know"] == "all",
                pure: cell.get("pure").is_some_and(|pure| *pure == "yes"),
            };
            for name in row.may_know.iter().filter(|name| !map.rows.iter().any(|(above, _)| above == *name)) {
                map.faults.push(format!("{line}: `{name}` does not stand above this row"));
            }
            match names(cell["module"]).collect::<Vec<_>>().as_slice() {
                [name] => map.rows.push((name.clone(), row)),
                _ => map.faults.push(format!("{line}: a row is about one module")),
            }
        }
        let own = module.last().map(|own| (*own).to_owned());
        let modules: BTreeSet<String> = house
            .modules
            .iter()
            .filter(|path| path.len() == module.len() + 1 && path.starts_with(&source.module))
            .filter_map(|path| path.last().cloned())
            .chain(own)
            .collect();
        let rows: BTreeSet<String> = map.rows.iter().map(|(name, _)| name.clone()).collect();
        map.faults.extend(modules.difference(&rows).map(|name| format!("module `{name}` has no row")));
        map.faults.extend(rows.difference(&modules).map(|name| format!("row `{name}` has no module")));
        map
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|(module, _)| module == name).map(|(_, row)| row)
    }

    /// Whether the module at the root of `path` does no I/O, reads no clock, holds no lock and draws no random number.
    pub(crate) fn is_pure(&self, path: &[String]) -> bool {
        path.first().and_then(|name| self.row(name)).is_some_and(|row| row.pure)
    }

    /// Every path in the modules of `room` that leads where the table does not let it, every fault of the table, and
    /// every permission that no module uses.
    pub(crate) fn violations(&self, house: &House, room: &[&str]) -> Vec<String> {
        let mut found = self.faults.clone();
        let mut used = BTreeSet::new();
        let root = room.is_empty();
        for source in house.sources.iter().filter(|source| starts_with(&source.module, room)) {
            for path in &source.names.paths {
                let line = format!("src/{}:{}: {}", source.file, path.line, path.segments.join("::"));
                if root && source.module.is_empty() {
                    found.push(format!("{line}: lib.rs declares modules and nothing else"));
                    continue;
                }
                let from = part(house, &path.module, room);
                let targets = house.targets(path);
                for (index, target) in targets.iter().enumerate() {
                    // A name that the room's own file re-exports is no knowledge of that file.
                    let re_export = index + 1 < targets.len() && !root && !path.glob;
                    let to = match target {
                        Target::Here(to) if to.is_empty() && root => {
                            found.push(format!("{line} names the crate as a whole"));
                            continue;
                        }
                        Target::Here(to) if starts_with(to, room) => part(house, to, room),
                        _ => continue,
                    };
                    if to == from || re_export && Some(&to) == room.last() {
                        continue;
                    }
                    used.insert((from, to.to_owned()));
                    match (self.row(from), self.row(to)) {
                        (_, None) => found.push(format!("{line}: `{to}` is no module with a row in the table")),
                        (Some(row), _) if !row.knows_all && !row.may_know.contains(to) => {
                            found.push(format!("{line}: `{from}` must not know `{to}`"));
                        }
                        _ => {}
                    }
                }
            }
        }
        for (name, row) in &self.rows {
            for known in row.may_know.iter().filter(|known| !used.contains(&(name.as_str(), (*known).clone()))) {
                found.push(format!("`{name}` may know `{known}` and does not: take the permission away"));
            }
        }
        found.sort();
        found.dedup();
        found
    }
}
