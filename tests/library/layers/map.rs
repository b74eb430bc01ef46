//! The table in a module's documentation that says which of its modules may know which, and whether the code keeps to
//! the table.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    house::{House, Target},
    names::Named,
};

/// One module of the table.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) may_know: BTreeSet<String>,
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
        let modules: BTreeSet<String> = house
            .modules
            .iter()
            .filter(|path| path.len() == module.len() + 1 && path.starts_with(&source.module))
            .filter_map(|path| path.last().cloned())
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
        let inside = |path: &[String]| path.len() > room.len() && path.iter().zip(room).all(|(a, b)| a == b);
        for source in house.sources.iter().filter(|source| source.module.is_empty() && room.is_empty()) {
            let line = |path: &Named| format!("src/lib.rs:{}: lib.rs declares modules and nothing else", path.line);
            found.extend(source.names.paths.iter().map(line));
        }
        for source in house.sources.iter().filter(|source| inside(&source.module)) {
            for path in &source.names.paths {
                let from = &path.module[room.len()];
                let line = format!("src/{}:{}: {}", source.file, path.line, path.segments.join("::"));
                for target in house.targets(path) {
                    let to = match &target {
                        Target::Here(to) if to.is_empty() => {
                            found.push(format!("{line} names the crate as a whole"));
                            continue;
                        }
                        Target::Here(to) if inside(to) => &to[room.len()],
                        _ => continue,
                    };
                    if to == from {
                        continue;
                    }
                    used.insert((from.clone(), to.clone()));
                    match (self.row(from), self.row(to)) {
                        (_, None) => found.push(format!("{line}: `{to}` is no module with a row in the table")),
                        (Some(row), _) if !row.may_know.contains(to) => {
                            found.push(format!("{line}: `{from}` must not know `{to}`"));
                        }
                        _ => {}
                    }
                }
            }
        }
        for (name, row) in &self.rows {
            for known in row.may_know.iter().filter(|known| !used.contains(&(name.clone(), (*known).clone()))) {
                found.push(format!("`{name}` may know `{known}` and does not: take the permission away"));
            }
        }
        found.sort();
        found.dedup();
        found
    }
}
