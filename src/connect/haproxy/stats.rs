//! What HAProxy tells of its servers: `show stat`.

/// The command: statistics of all servers, and of nothing else.
pub(super) const COMMAND: &str = "show stat -1 4 -1";

/// A row of `show stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The backend's name.
    pub backend: String,
    /// The server's name.
    pub name: String,
    /// Sessions that are open now.
    pub sessions: Option<u64>,
    /// Sessions since HAProxy's start.
    pub sessions_total: Option<u64>,
    /// Bytes to the server, and from it.
    pub bytes: (Option<u64>, Option<u64>),
    /// Failed connections and failed responses since HAProxy's start.
    pub errors: Option<u64>,
    /// Mean response time of the last 1024 requests, in milliseconds; 0 before the first one.
    pub response_ms: Option<u64>,
}

/// Reads the answer: a line of titles, and a row for each server. The error is the line that does not fit.
pub fn stats(answer: &str) -> Result<Vec<Stat>, String> {
    let mut rows = Rows(answer);
    let mut titles = rows.next().unwrap_or_default();
    match titles.first_mut().map(|first| first.strip_prefix("# ").map(str::to_owned)) {
        Some(Some(first)) => titles[0] = first,
        _ => return Err(titles.join(",")),
    }
    let column =
        |title: &str| titles.iter().position(|other| other == title).ok_or_else(|| format!("no column {title}"));
    let (backend, name, sessions) = (column("pxname")?, column("svname")?, column("scur")?);
    let (connecting, response, time) = (column("econ")?, column("eresp")?, column("rtime")?);
    // No version is without these, and nothing depends on them.
    let [total, to, from] = ["stot", "bin", "bout"].map(|title| column(title).unwrap_or(usize::MAX));
    let row = |cells: Vec<String>| {
        // A server that never had a request has no number in some columns.
        let number = |at: usize| cells.get(at).and_then(|cell| cell.parse::<u64>().ok());
        let (Some(backend), Some(name)) = (cells.get(backend), cells.get(name)) else { return Err(cells.join(",")) };
        let failed = [number(connecting), number(response)];
        Ok(Stat {
            backend: backend.clone(),
            name: name.clone(),
            sessions: number(sessions),
            sessions_total: number(total),
            bytes: (number(to), number(from)),
            errors: failed.into_iter().flatten().reduce(u64::saturating_add),
            response_ms: number(time),
        })
    };
    rows.map(row).collect()
}

/// The rows of a CSV text, each as its cells. A cell in quotes may have commas and ends of lines in it, and each quote twice.
struct Rows<'a>(&'a str);

impl Iterator for Rows<'_> {
    type Item = Vec<String>;

    fn next(&mut self) -> Option<Vec<String>> {
        if self.0.is_empty() {
            return None;
        }
        let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
        let mut characters = self.0.char_indices().peekable();
        let mut end = self.0.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' if quoted && characters.next_if(|(_, next)| *next == '"').is_some() => cell.push('"'),
                '"' => quoted = !quoted,
                ',' if !quoted => cells.push(std::mem::take(&mut cell)),
                '\n' if !quoted => {
                    end = at + 1;
                    break;
                }
                other => cell.push(other),
            }
        }
        cells.push(cell);
        self.0 = &self.0[end..];
        Some(cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_servers() {
        let answer = "# pxname,svname,scur,econ,eresp,last_chk,rtime,\n\
                      web,s1,3,1,2,\"says \"\"no\"\", and\nmore\",12,\nweb,s:2,0,,,,,\n";
        let stat = |name: &str, sessions, errors, response_ms| Stat {
            backend: "web".into(),
            name: name.into(),
            sessions_total: None,
            bytes: (None, None),
            sessions,
            errors,
            response_ms,
        };
        assert_eq!(stats(answer).unwrap(), [stat("s1", Some(3), Some(3), Some(12)), stat("s:2", Some(0), None, None)]);
        assert_eq!(stats("pxname\n"), Err("pxname".into()));
        assert_eq!(stats(""), Err(String::new()));
        assert_eq!(stats("# pxname,svname,scur,econ,eresp\n"), Err("no column rtime".into()));
        let titles = "# pxname,svname,scur,econ,eresp,rtime\n";
        assert_eq!(stats(&format!("{titles}web\n")), Err("web".into()));
        let totals = stats("# pxname,svname,scur,stot,bin,bout,econ,eresp,rtime\nweb,s,1,9,80,,0,0,\n").unwrap();
        assert_eq!((totals[0].sessions_total, totals[0].bytes), (Some(9), (Some(80), None)));
        let most = u64::MAX;
        assert_eq!(stats(&format!("{titles}web,s,0,{most},{most},0")).unwrap()[0].errors, Some(most));
    }
}
