//! The operator's words: who is quiesced, and whose weight is fixed, by the admin side. They are kept apart from what load
//! balancers, members and the members file say.
//!
//! A word has a pattern: what the pattern leaves out matches all, now and later. Words without group and load balancer are
//! about endpoints, others about memberships. Of the words that match, the newest counts: a [`Saying::Resume`] is an
//! exception from an older and wider quiesce.

use std::{fmt, net::IpAddr, sync::Arc};

use crate::{
    limits,
    sasp::{Endpoint, Escaped, component},
    time::{Since, Time},
};

/// What a word is about. What is `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    /// The name of the group.
    pub group: Option<Box<[u8]>>,
    /// The UID of the load balancer.
    pub lb_uid: Option<Box<[u8]>>,
    /// The member's address, in the shortest of its spellings.
    pub address: Option<IpAddr>,
    /// The member's port.
    pub port: Option<u16>,
    /// The member's protocol.
    pub protocol: Option<u8>,
}

/// What a word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saying {
    /// Out of service.
    Quiesce,
    /// Not out of service, whatever older words say.
    Resume,
    /// This weight, and no checks. The pattern has an address, and neither group nor load balancer.
    Weight(u16),
}

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Newer words have higher numbers.
    pub number: u64,
    /// What the word says.
    pub saying: Saying,
    /// What the word is about.
    pub pattern: Pattern,
    /// Why.
    pub reason: Box<str>,
    /// Who.
    pub by: Box<str>,
    /// From where.
    pub from: Box<str>,
    /// Since when: perhaps an earlier process took the word.
    pub at: Since,
    /// The end of the word, if it ends by itself.
    pub expires: Option<Time>,
}

impl Word {
    /// Who said the word and why, for people. A writer who states no name is named by where the word came from.
    pub fn author(&self) -> String {
        author(&self.by, &self.from, &self.reason)
    }
}

/// An operator with a reason, for people.
pub fn author(by: &str, from: &str, reason: &str) -> String {
    format!("operator ({}): {reason}", if by.is_empty() { from } else { by })
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.address.map(|address| format!("address {address}")));
        parts.extend(self.port.map(|port| format!("port {port}")));
        parts.extend(self.protocol.map(|protocol| match protocol {
            component::TCP => "protocol tcp".into(),
            component::UDP => "protocol udp".into(),
            other => format!("protocol {other}"),
        }));
        parts.extend(self.group.as_deref().map(|group| format!("group \"{}\"", Escaped(group))));
        parts.extend(self.lb_uid.as_deref().map(|uid| format!("load balancer \"{}\"", Escaped(uid))));
        match parts.is_empty() {
            true => f.write_str("all members"),
            false => write!(f, "members with {}", parts.join(", ")),
        }
    }
}

/// A word without its author: what it says of what.
impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pattern = &self.pattern;
        match self.saying {
            Saying::Quiesce => write!(f, "quiesce {pattern}"),
            Saying::Resume => write!(f, "resume {pattern}"),
            Saying::Weight(weight) => write!(f, "fix weight {weight} of {pattern}"),
        }
    }
}

/// What the words say about one endpoint, in all groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OfEndpoint {
    pub(super) quiesced: bool,
    pub(super) weight: Option<u16>,
}

fn fits<T: PartialEq + ?Sized>(wanted: Option<&T>, value: &T) -> bool {
    wanted.is_none_or(|wanted| wanted == value)
}

fn covers<T: PartialEq>(wide: &Option<T>, narrow: &Option<T>) -> bool {
    wide.is_none() || wide == narrow
}

impl Pattern {
    /// Whether the pattern is about endpoints, in all groups.
    pub fn is_of_endpoints(&self) -> bool {
        self.group.is_none() && self.lb_uid.is_none()
    }

    /// Both spellings of the only endpoint that the pattern can match, if there is only one.
    pub(super) fn endpoints(&self) -> Option<[Endpoint; 2]> {
        let (address, protocol, port) = (self.address?, self.protocol?, self.port?);
        let mapped = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().into(),
            IpAddr::V6(_) => address,
        };
        Some([address, mapped].map(|address| Endpoint::new(address, protocol, port)))
    }

    /// Whether an endpoint matches, in a group that matches.
    pub fn fits_endpoint(&self, endpoint: &Endpoint) -> bool {
        fits(self.port.as_ref(), &endpoint.port)
            && fits(self.protocol.as_ref(), &endpoint.protocol)
            && self.address.is_none_or(|address| address == endpoint.canonical().ip())
    }

    /// Whether a group matches.
    pub fn fits_group(&self, lb_uid: &[u8], group: &[u8]) -> bool {
        fits(self.group.as_deref(), group) && fits(self.lb_uid.as_deref(), lb_uid)
    }

    /// Whether this pattern matches everything that `other` matches.
    fn covers(&self, other: &Pattern) -> bool {
        covers(&self.group, &other.group)
            && covers(&self.lb_uid, &other.lb_uid)
            && covers(&self.address, &other.address)
            && covers(&self.port, &other.port)
            && covers(&self.protocol, &other.protocol)
    }

    /// Whether something can match both.
    fn meets(&self, other: &Pattern) -> bool {
        fn meet<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
            covers(one, other) || other.is_none()
        }
        meet(&self.group, &other.group)
            && meet(&self.lb_uid, &other.lb_uid)
            && meet(&self.address, &other.address)
            && meet(&self.port, &other.port)
            && meet(&self.protocol, &other.protocol)
    }
}

impl Word {
    /// Whether this is a quiesce of endpoints in all groups, which a resume of this pattern, in some groups, leaves as it is.
    pub fn stays_beside(&self, resumed: &Pattern) -> bool {
        let is_wider = self.pattern.is_of_endpoints() && !resumed.is_of_endpoints();
        self.saying == Saying::Quiesce && is_wider && self.pattern.meets(resumed)
    }

    /// Whether this is a quiesce, and a resume of this pattern an exception from it.
    fn is_excepted_by(&self, resumed: &Pattern) -> bool {
        self.saying == Saying::Quiesce && self.pattern.meets(resumed) && !self.stays_beside(resumed)
    }
}

/// Why a word is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordRefused {
    /// There are [`limits::OPERATOR_WORDS`] words.
    TooMany,
    /// No word of the operator quiesces anything here, or fixes a weight.
    Nothing,
    /// This word about endpoints quiesces them in all groups: a resume in some groups is no exception from the word.
    OfEndpoints(u64),
    /// This word fixes the weight of more endpoints.
    Wider(u64),
    /// The weight is over the highest.
    Weight(u16),
}

/// What to change for a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The numbers of the words that end.
    pub(super) unsaid: Vec<u64>,
    /// The word must be said, too.
    pub(super) said: bool,
}

/// The words in force, oldest first.
#[derive(Default)]
pub(super) struct Words {
    list: Vec<Arc<Word>>,
    pub(super) last: u64,
    /// In a fleet: the date of time zero, in milliseconds since 1970.
    pub(super) zero: Option<u64>,
}

impl Words {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn list(&self) -> &[Arc<Word>] {
        &self.list
    }

    /// The number of the next word. In a fleet it is a date, so that the words of all nodes count in the order in which
    /// they were said.
    pub(super) fn next_number(&self, now: Time) -> u64 {
        let date = self.zero.map_or(0, |zero| zero.saturating_add(now.0 / 1_000_000));
        date.max(self.last + 1)
    }

    /// What a word would change; changes nothing.
    pub(super) fn plan(&self, saying: Saying, pattern: &Pattern) -> Result<Plan, WordRefused> {
        let numbers = |which: &dyn Fn(&Word) -> bool| -> Vec<u64> {
            self.list.iter().filter(|word| which(word)).map(|word| word.number).collect()
        };
        let same = |word: &Word| matches!(word.saying, Saying::Weight(_)) == matches!(saying, Saying::Weight(_));
        let mut plan = match saying {
            Saying::Quiesce | Saying::Weight(_) => {
                Plan { unsaid: numbers(&|word| same(word) && word.pattern == *pattern), said: true }
            }
            Saying::Resume => {
                let quiesces = |word: &Word| word.is_excepted_by(pattern);
                let is_any = self.list.iter().any(|word| quiesces(word));
                // What words about endpoints quiesce stays so. If that is all of the pattern, or there is nothing else,
                // the resume would do nothing.
                let stays = |word: &Word| word.stays_beside(pattern) && self.is_last_word_on(word, pattern);
                let mut of_endpoints = self.list.iter().filter(|word| stays(word));
                if let Some(word) = of_endpoints.find(|word| !is_any || word.pattern.covers(pattern)) {
                    return Err(WordRefused::OfEndpoints(word.number));
                }
                if !is_any {
                    return Err(WordRefused::Nothing);
                }
                let covered = |word: &Word| same(word) && pattern.covers(&word.pattern);
                let wider = self.list.iter().any(|word| quiesces(word) && !covered(word));
                Plan { unsaid: numbers(&covered), said: wider }
            }
        };
        plan.unsaid.extend(self.orphans(&plan.unsaid));
        if plan.said && self.list.len() - plan.unsaid.len() >= limits::OPERATOR_WORDS {
            return Err(WordRefused::TooMany);
        }
        Ok(plan)
    }

    /// The numbers of the resumes that are exceptions from nothing any more once these words, by rising number, have ended.
    pub(super) fn orphans(&self, ended: &[u64]) -> Vec<u64> {
        let (stay, end): (Vec<&Word>, Vec<&Word>) =
            self.list.iter().map(|word| &**word).partition(|word| ended.binary_search(&word.number).is_err());
        let is_orphan = |word: &&&Word| {
            let is_excepted = |quiesce: &&Word| quiesce.number < word.number && quiesce.is_excepted_by(&word.pattern);
            word.saying == Saying::Resume && end.iter().any(is_excepted) && !stay.iter().any(is_excepted)
        };
        stay.iter().filter(is_orphan).map(|word| word.number).collect()
    }

    /// No newer resume takes the whole pattern out of this word.
    fn is_last_word_on(&self, word: &Word, pattern: &Pattern) -> bool {
        !self
            .list
            .iter()
            .any(|other| other.number > word.number && other.saying == Saying::Resume && other.pattern.covers(pattern))
    }

    /// The numbers of the words that fix weights and end, for endpoints that match; changes nothing.
    pub(super) fn plan_release(&self, pattern: &Pattern) -> Result<Plan, WordRefused> {
        let mut fixed =
            self.list.iter().filter(|word| matches!(word.saying, Saying::Weight(_)) && word.pattern.meets(pattern));
        if let Some(wider) = fixed.clone().find(|word| !pattern.covers(&word.pattern)) {
            return Err(WordRefused::Wider(wider.number));
        }
        let unsaid: Vec<u64> = fixed.by_ref().map(|word| word.number).collect();
        if unsaid.is_empty() { Err(WordRefused::Nothing) } else { Ok(Plan { unsaid, said: false }) }
    }

    pub(super) fn say(&mut self, word: Word) -> Arc<Word> {
        self.last = self.last.max(word.number);
        let word = Arc::new(word);
        let at = self.list.partition_point(|known| known.number < word.number);
        self.list.insert(at, word.clone());
        word
    }

    pub(super) fn unsay(&mut self, number: u64) -> Option<Arc<Word>> {
        let at = self.list.iter().position(|word| word.number == number)?;
        Some(self.list.remove(at))
    }

    /// The words whose time is over.
    pub(super) fn expired(&self, now: Time) -> Vec<u64> {
        let over = |word: &&Arc<Word>| word.expires.is_some_and(|at| at <= now);
        self.list.iter().filter(over).map(|word| word.number).collect()
    }

    /// When the next word ends by itself.
    pub(super) fn next_end(&self) -> Option<Time> {
        self.list.iter().filter_map(|word| word.expires).min()
    }

    /// What the words about endpoints say of an endpoint.
    pub(super) fn of_endpoint(&self, endpoint: &Endpoint) -> OfEndpoint {
        OfEndpoint {
            quiesced: self.quiescing_endpoint(endpoint).is_some(),
            weight: self.fixing(endpoint).and_then(|word| match word.saying {
                Saying::Weight(weight) => Some(weight),
                _ => None,
            }),
        }
    }

    /// The word that quiesces an endpoint in all groups.
    pub(super) fn quiescing_endpoint(&self, endpoint: &Endpoint) -> Option<&Arc<Word>> {
        let fits = |word: &&Arc<Word>| {
            !matches!(word.saying, Saying::Weight(_))
                && word.pattern.is_of_endpoints()
                && word.pattern.fits_endpoint(endpoint)
        };
        self.list.iter().rev().find(fits).filter(|word| word.saying == Saying::Quiesce)
    }

    /// The word that fixes the weight of an endpoint.
    pub(super) fn fixing(&self, endpoint: &Endpoint) -> Option<&Arc<Word>> {
        let fits = |word: &&Arc<Word>| matches!(word.saying, Saying::Weight(_)) && word.pattern.fits_endpoint(endpoint);
        self.list.iter().rev().find(fits)
    }

    /// Whether the words about memberships quiesce a member of a group.
    pub(super) fn quiesce(&self, lb_uid: &[u8], group: &[u8], endpoint: &Endpoint) -> bool {
        self.quiescing(lb_uid, group, endpoint).is_some()
    }

    /// The word about memberships that quiesces a member of a group.
    pub(super) fn quiescing(&self, lb_uid: &[u8], group: &[u8], endpoint: &Endpoint) -> Option<&Arc<Word>> {
        let fits = |word: &&Arc<Word>| {
            // A resume of endpoints is an exception here, too.
            (!word.pattern.is_of_endpoints() || word.saying == Saying::Resume)
                && word.pattern.fits_group(lb_uid, group)
                && word.pattern.fits_endpoint(endpoint)
        };
        self.list.iter().rev().find(fits).filter(|word| word.saying == Saying::Quiesce)
    }

    /// The words that match a membership, or an endpoint in some group (`None`).
    pub(super) fn matching(&self, membership: Option<(&[u8], &[u8])>, endpoint: &Endpoint) -> Vec<Arc<Word>> {
        let fits = |word: &&Arc<Word>| {
            word.pattern.fits_endpoint(endpoint)
                && membership.is_none_or(|(lb_uid, group)| word.pattern.fits_group(lb_uid, group))
        };
        self.list.iter().filter(fits).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(last: u8, port: u16) -> Endpoint {
        Endpoint::new([10, 0, 0, last].into(), 6, port)
    }

    fn at(last: u8) -> Pattern {
        Pattern { address: Some([10, 0, 0, last].into()), ..Pattern::default() }
    }

    fn group(name: &str) -> Pattern {
        Pattern { group: Some(name.as_bytes().into()), ..Pattern::default() }
    }

    fn say(words: &mut Words, saying: Saying, pattern: Pattern) -> Result<Plan, WordRefused> {
        let plan = words.plan(saying, &pattern)?;
        plan.unsaid.iter().for_each(|&number| drop(words.unsay(number)));
        if plan.said {
            let number = words.next_number(Time::default());
            let (reason, by, from) = ("r".into(), "b".into(), "f".into());
            words.say(Word { number, saying, pattern, reason, by, from, at: Since::default(), expires: None });
        }
        Ok(plan)
    }

    #[test]
    fn what_is_left_out_matches_all_and_the_newest_word_counts() {
        let mut words = Words::default();
        say(&mut words, Saying::Quiesce, at(1)).unwrap();
        let quiesced = |words: &Words, last, port| words.of_endpoint(&endpoint(last, port)).quiesced;
        assert!(quiesced(&words, 1, 80) && quiesced(&words, 1, 81) && !quiesced(&words, 2, 80));
        assert!(words.of_endpoint(&Endpoint::new("::ffff:10.0.0.1".parse().unwrap(), 6, 80)).quiesced);
        // One of two ports is an exception.
        let one = Pattern { port: Some(80), ..at(1) };
        assert_eq!(say(&mut words, Saying::Resume, one.clone()), Ok(Plan { unsaid: vec![], said: true }));
        assert!(!quiesced(&words, 1, 80) && quiesced(&words, 1, 81));
        assert_eq!(say(&mut words, Saying::Quiesce, one), Ok(Plan { unsaid: vec![2], said: true }));
        assert!(quiesced(&words, 1, 80));
        // A resume of all that was quiesced leaves no word.
        assert_eq!(say(&mut words, Saying::Resume, at(1)), Ok(Plan { unsaid: vec![1, 3], said: false }));
        assert!(words.is_empty() && !quiesced(&words, 1, 81));
        assert_eq!(say(&mut words, Saying::Resume, at(1)), Err(WordRefused::Nothing));
    }

    #[test]
    fn groups_and_endpoints_are_apart() {
        let mut words = Words::default();
        say(&mut words, Saying::Quiesce, group("web")).unwrap();
        assert!(words.quiesce(b"LB1", b"web", &endpoint(1, 80)) && !words.quiesce(b"LB1", b"db", &endpoint(1, 80)));
        assert!(!words.of_endpoint(&endpoint(1, 80)).quiesced);
        // An endpoint that is resumed is resumed in the group, too.
        say(&mut words, Saying::Resume, at(1)).unwrap();
        assert!(!words.quiesce(b"LB1", b"web", &endpoint(1, 80)) && words.quiesce(b"LB1", b"web", &endpoint(2, 80)));
        say(&mut words, Saying::Quiesce, at(3)).unwrap();
        let in_web = Pattern { group: Some(b"web"[..].into()), ..at(3) };
        assert_eq!(say(&mut words, Saying::Resume, in_web), Err(WordRefused::OfEndpoints(3)));
        say(&mut words, Saying::Resume, Pattern::default()).unwrap();
        assert!(words.is_empty(), "a resume of everything ends every quiesce");
    }

    #[test]
    fn a_quiesce_of_an_endpoint_does_not_keep_its_groups_quiesced() {
        let mut words = Words::default();
        say(&mut words, Saying::Quiesce, at(9)).unwrap();
        assert_eq!(
            words.plan(Saying::Resume, &group("web")),
            Err(WordRefused::OfEndpoints(1)),
            "there is nothing else"
        );
        say(&mut words, Saying::Quiesce, group("web")).unwrap();
        let of_it = Pattern { group: Some(b"web"[..].into()), ..at(9) };
        assert_eq!(words.plan(Saying::Resume, &of_it), Err(WordRefused::OfEndpoints(1)), "it stays quiesced");
        assert_eq!(say(&mut words, Saying::Resume, group("web")), Ok(Plan { unsaid: vec![2], said: false }));
        assert!(!words.quiesce(b"LB1", b"web", &endpoint(1, 80)));
        assert!(words.of_endpoint(&endpoint(9, 80)).quiesced, "the endpoint has its own word");
        // An exception in some groups is one from the words about memberships only.
        say(&mut words, Saying::Quiesce, Pattern { lb_uid: Some(b"LB1"[..].into()), ..Pattern::default() }).unwrap();
        assert_eq!(say(&mut words, Saying::Resume, group("web")), Ok(Plan { unsaid: vec![], said: true }));
        assert!(!words.quiesce(b"LB1", b"web", &endpoint(1, 80)) && words.quiesce(b"LB1", b"db", &endpoint(1, 80)));
    }

    #[test]
    fn an_exception_ends_with_what_it_is_an_exception_from() {
        let mut words = Words::default();
        let port = |last, port| Pattern { port: Some(port), ..at(last) };
        say(&mut words, Saying::Quiesce, at(1)).unwrap();
        say(&mut words, Saying::Quiesce, Pattern { port: Some(80), ..Pattern::default() }).unwrap();
        say(&mut words, Saying::Resume, port(1, 80)).unwrap();
        say(&mut words, Saying::Resume, port(1, 81)).unwrap();
        assert_eq!(words.orphans(&[]), [0; 0]);
        assert_eq!(words.orphans(&[1]), [4], "the other is an exception from the second quiesce, too");
        assert_eq!(words.orphans(&[1, 2]), [3, 4]);
        // A quiesce of the same again is newer than the exceptions.
        assert_eq!(say(&mut words, Saying::Quiesce, at(1)), Ok(Plan { unsaid: vec![1, 4], said: true }));
        let all = Pattern { port: Some(80), ..Pattern::default() };
        assert_eq!(say(&mut words, Saying::Resume, all), Ok(Plan { unsaid: vec![2, 3], said: true }));
        let numbers = |words: &Words| words.list().iter().map(|word| word.number).collect::<Vec<_>>();
        assert_eq!(numbers(&words), [5, 6]);
        assert_eq!(say(&mut words, Saying::Resume, at(1)), Ok(Plan { unsaid: vec![5, 6], said: false }));
    }

    #[test]
    fn weights_are_fixed_and_released() {
        let mut words = Words::default();
        say(&mut words, Saying::Weight(7), at(1)).unwrap();
        say(&mut words, Saying::Weight(9), at(1)).unwrap();
        assert_eq!(words.list().len(), 1, "the newer word takes the place of one about the same");
        assert_eq!(words.of_endpoint(&endpoint(1, 80)), OfEndpoint { quiesced: false, weight: Some(9) });
        let one = Pattern { port: Some(80), ..at(1) };
        assert_eq!(words.plan_release(&one), Err(WordRefused::Wider(2)));
        assert_eq!(words.plan_release(&at(2)), Err(WordRefused::Nothing));
        assert_eq!(words.plan_release(&at(1)).unwrap().unsaid, [2]);
    }

    #[test]
    fn there_is_a_limit() {
        let mut words = Words::default();
        for port in 0..limits::OPERATOR_WORDS as u16 {
            say(&mut words, Saying::Quiesce, Pattern { port: Some(port), ..at(1) }).unwrap();
        }
        assert_eq!(say(&mut words, Saying::Quiesce, at(2)), Err(WordRefused::TooMany));
        let again = Pattern { port: Some(7), ..at(1) };
        assert!(say(&mut words, Saying::Quiesce, again).is_ok(), "one that takes the place of another is taken");
        assert!(say(&mut words, Saying::Resume, at(1)).is_ok());
    }
}
